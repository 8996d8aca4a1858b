/* A CLI that answers at once: what is left of a request's cost is the server's own.

   It speaks the lines of Claude Code 2.1.330 (shapes and lengths as recorded, filler for what nobody reads) and does
   what `bench` needs, no more:
     --version, auth status --json
     control_request        -> success, its request_id echoed
     user, shouldQuery:false -> a result of no turns
     user                   -> an answer: message_start ... message_stop, result
   The user's text says how it answers: "deltas=N" text deltas (10), "size=N" bytes each (6), "each": one write a
   delta, "gap=N": and N microseconds after each. Everything else goes out in one write.
   Input is compact JSON (no blanks between tokens), as the proxy writes it. */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SESSION "\"session_id\":\"11111111-2222-4333-8444-555555555555\""
#define UUID "\"uuid\":\"66666666-7777-4888-8999-000000000000\""
#define EVENT_END "," SESSION ",\"parent_tool_use_id\":null," UUID ",\"api_message_id\":\"msg_01\"}\n"
#define USAGE                                                                                                  \
    "\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":5,\"cache_read_input_tokens\":7,"          \
    "\"output_tokens\":12}"
#define MODEL(name, id)                                                                                        \
    "{\"value\":\"" name "\",\"resolvedModel\":\"" id "\",\"displayName\":\"" name "\",\"description\":\"" id   \
    "\",\"supportsEffort\":true,\"supportedEffortLevels\":[\"low\",\"medium\",\"high\"]}"
#define MODELS                                                                                                 \
    "\"models\":[" MODEL("default", "claude-sonnet-5-5") "," MODEL("sonnet", "claude-sonnet-5-5") ","          \
    MODEL("opus", "claude-opus-5-5") "," MODEL("haiku", "claude-haiku-5-5") "]"

static char *out;
static size_t filled, room;

static void flush(void) {
    size_t done = 0;
    while (done < filled) {
        ssize_t n = write(1, out + done, filled - done);
        if (n <= 0) exit(1);
        done += (size_t)n;
    }
    filled = 0;
}

static void reserve(size_t more) {
    if (filled + more <= room) return;
    room = (filled + more) * 2;
    out = realloc(out, room);
    if (!out) exit(1);
}

static void say(const char *format, ...) {
    va_list arguments;
    for (;;) {
        va_start(arguments, format);
        int n = vsnprintf(out + filled, room - filled, format, arguments);
        va_end(arguments);
        if (filled + (size_t)n < room) {
            filled += (size_t)n;
            return;
        }
        reserve((size_t)n + 1);
    }
}

static void fill(char letter, size_t count) {
    reserve(count);
    memset(out + filled, letter, count);
    filled += count;
}

static long option(const char *line, const char *name, long standard) {
    const char *found = NULL;
    for (const char *next = line; (next = strstr(next, name)); next++) found = next;
    return found ? atol(found + strlen(name)) : standard;
}

static void control(const char *line) {
    const char *id = strstr(line, "\"request_id\":\"");
    if (!id) return;
    id += 14;
    int length = (int)strcspn(id, "\"");
    say("{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"request_id\":\"%.*s\"", length, id);
    if (strstr(line, "\"subtype\":\"list_models\"")) {
        say(",\"response\":{" MODELS "}");
    } else if (strstr(line, "\"subtype\":\"initialize\"")) {
        say(",\"response\":{\"commands\":[],\"output_style\":\"");
        fill('x', 3000);
        say("\"," MODELS ",\"account\":{\"tokenSource\":\"CLAUDE_CODE_OAUTH_TOKEN\"}}");
    }
    say("}}\n");
}

static void result(int turns, const char *text, size_t length) {
    say("{\"stop_reason\":%s," SESSION "," USAGE ",\"permission_denials\":[],\"subagent_stats\":\"",
        turns ? "\"end_turn\"" : "null");
    fill('x', 900);
    say("\",\"is_error\":false,\"num_turns\":%d,\"subtype\":\"success\",\"api_error_status\":null,\"result\":\"", turns);
    if (text) fill(*text, length);
    say("\",\"type\":\"result\",\"duration_ms\":5," UUID "}\n");
}

static void answer(const char *line) {
    long deltas = option(line, "deltas=", 10), size = option(line, "size=", 6), gap = option(line, "gap=", 0);
    int each = strstr(line, "each") != NULL;
    struct timespec pause = {gap / 1000000, gap % 1000000 * 1000};

    say("{\"type\":\"system\",\"subtype\":\"init\"," SESSION ",\"tools\":[],\"model\":\"claude-opus-5-5\","
        "\"claude_code_version\":\"2.1.330\"," UUID ",\"capabilities\":\"");
    fill('x', 1500);
    say("\"}\n{\"type\":\"system\",\"subtype\":\"status\",\"status\":\"requesting\"," SESSION "," UUID "}\n");
    say("{\"type\":\"stream_event\",\"event\":{\"type\":\"message_start\",\"message\":{\"id\":\"msg_01\",\"type\":\"message\","
        "\"role\":\"assistant\",\"model\":\"claude-opus-5-5\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,"
        USAGE "}}" EVENT_END);
    say("{\"type\":\"stream_event\",\"event\":{\"type\":\"content_block_start\",\"index\":0,\"content_block\":"
        "{\"type\":\"text\",\"text\":\"\"}}" EVENT_END);
    if (each) flush();
    for (long i = 0; i < deltas; i++) {
        say("{\"type\":\"stream_event\",\"event\":{\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
            "{\"type\":\"text_delta\",\"text\":\"");
        fill('y', (size_t)size);
        say("\"}}" EVENT_END);
        if (each) flush();
        if (gap) nanosleep(&pause, NULL);
    }
    say("{\"type\":\"assistant\",\"message\":{\"id\":\"msg_01\",\"type\":\"message\",\"role\":\"assistant\","
        "\"model\":\"claude-opus-5-5\",\"content\":[{\"type\":\"text\",\"text\":\"");
    fill('y', (size_t)(deltas * size));
    say("\"}],\"stop_reason\":null,\"stop_sequence\":null," USAGE "},\"parent_tool_use_id\":null," SESSION "," UUID "}\n");
    say("{\"type\":\"stream_event\",\"event\":{\"type\":\"content_block_stop\",\"index\":0}" EVENT_END);
    say("{\"type\":\"stream_event\",\"event\":{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\","
        "\"stop_sequence\":null}," USAGE "}" EVENT_END);
    say("{\"type\":\"stream_event\",\"event\":{\"type\":\"message_stop\"}" EVENT_END);
    result(1, "y", (size_t)(deltas * size));
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "--version")) return puts("2.1.330 (Claude Code)") < 0;
        if (!strcmp(arguments[i], "auth"))
            return puts("{\"loggedIn\":true,\"authMethod\":\"oauth_token\",\"apiProvider\":\"firstParty\"}") < 0;
    }
    char *line = NULL;
    size_t space = 0;
    reserve(16384);
    while (getline(&line, &space, stdin) > 0) {
        if (strstr(line, "\"type\":\"control_request\"")) {
            control(line);
        } else if (strstr(line, "\"type\":\"user\"")) {
            if (strstr(line, "\"shouldQuery\":false")) {
                result(0, NULL, 0);
            } else {
                answer(line);
            }
        }
        flush();
    }
    return 0;
}
