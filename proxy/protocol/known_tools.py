"""The names by which the CLI knows tools, as `python -m conformance tools` finds them in versions 2.1.272 to 2.1.332.

It treats a tool by its name, whoever it is from: `ToolSearch` is dropped, `Agent` brings a list of agents into the
conversation, a call of `Write` loses the white space at its lines' ends, one of `ExitPlanMode` its plan, one of `Bash`
a leading `cd`. What it does changes from version to version, so no tool of a client's is sent under such a name.
"""

from typing import Final

KNOWN_TOOLS: Final = frozenset((
    "Agent", "AgentOutput", "AgentOutputTool", "Artifact", "ArtifactCheck", "ArtifactComments", "ArtifactData",
    "AskUserQuestion", "Bash", "BashOutput", "BashOutputTool", "Brief", "Cd", "ClaudeDesign", "CronCreate",
    "CronDelete", "CronList", "DeferredToolPlaceholder", "Edit", "EndConversation", "EnterPlanMode",
    "EnterWorktree", "ExitPlanMode", "ExitWorktree", "Glob", "Grep", "JavaScript", "KillBash", "KillShell", "LSP",
    "ListAgents", "ListMcpResources", "ListMcpResourcesTool", "ListPeers", "Monitor", "MultiEdit", "NotebookEdit",
    "NotebookRead", "OfferChromeSetup", "PowerShell", "Projects", "ProposeGoal", "PushNotification", "REPL",
    "Read", "ReadMcpResource", "ReadMcpResourceDir", "ReadMcpResourceDirTool", "ReadMcpResourceTool",
    "ReadNotifications", "RemoteTrigger", "ReportFindings", "ScheduleWakeup", "SendFeedback", "SendMessage",
    "SendUserFile", "SendUserMessage", "SetGoal", "ShareOnboardingGuide", "ShowOnboardingRolePicker", "Skill",
    "StructuredOutput", "SubagentHandback", "Task", "TaskCreate", "TaskGet", "TaskList", "TaskOutput", "TaskStop",
    "TaskUpdate", "TodoWrite", "ToolSearch", "WaitForMcpServers", "WebFetch", "WebSearch", "Workflow", "Write",
    "propose_skills", "self_hosted_runner_get_pool", "self_hosted_runner_list_runners",
    "self_hosted_runner_list_secrets", "self_hosted_runner_list_sessions", "self_hosted_runner_read_health",
    "self_hosted_runner_read_metrics", "self_hosted_runner_requeue_session", "self_hosted_runner_spawn_local",
    "self_hosted_runner_tail_log",
))  # fmt: skip
