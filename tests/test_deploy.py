"""What is deployed: the container without the CLI, the release, the examples for reverse proxies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from proxy.settings import SETTINGS

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
STEPS = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))


def test_the_cli_is_not_in_the_image() -> None:
    assert not re.search(r"claude-agent-sdk|\[cli\]|npm|claude-code|curl|wget", STEPS)


def test_the_image_runs_as_nobody_special_and_keeps_everything_in_the_volume() -> None:
    assert re.search(r"^USER claude$", STEPS, re.M)
    assert re.search(r"^VOLUME /data$", STEPS, re.M)
    variables = dict(re.findall(r"(\w+)=(\S+)", re.search(r"^ENV (.*)$", STEPS, re.M)[1]))  # type: ignore[index]
    assert variables["HOME"] == "/data"
    assert {name for name in variables if name.startswith("CLAUDE_PROXY_")} <= {each.variable for each in SETTINGS}
    for source in re.findall(r"^COPY (.*) \S+$", STEPS, re.M):
        for name in source.split():
            assert (ROOT / name).exists()


LOOKS_TWICE = """
import contextlib, shutil, sys
from proxy.cli import find
from proxy.settings import Settings

find.PLACES = ()
environ = {"PATH": "/nowhere", "HOME": "/nowhere"}
# This Python may have the package elsewhere.
with contextlib.suppress(find.CliMissing):
    find.find(Settings(), environ)
shutil.move(sys.argv[1], sys.argv[2])
print(find.find(Settings(), environ))
"""


def test_what_pip_is_told_there_is_found(tmp_path: Path) -> None:
    """The first start installs the CLI's package with pip: into PIP_TARGET, which is also on Python's path, and is not
    there when Python starts. The same process looks for it before and after."""
    target, made = tmp_path / "python", tmp_path / "made"
    bundled = made / "claude_agent_sdk" / "_bundled" / "claude"
    bundled.parent.mkdir(parents=True)
    (made / "claude_agent_sdk" / "__init__.py").write_text("")
    bundled.write_text("#!/bin/sh\n")
    bundled.chmod(0o755)
    environ = {"PYTHONPATH": f"{target}{os.pathsep}{ROOT}", "PATH": os.environ["PATH"]}
    ran = subprocess.run(
        [sys.executable, "-c", LOOKS_TWICE, made, target], env=environ, capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == str(target / bundled.relative_to(made)), ran.stderr


def test_compose_opens_it_to_this_computer_only_and_wants_keys() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["claude-max-api"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["environment"]["API_KEYS"].startswith("${API_KEYS:?")
    assert service["volumes"] == ["data:/data"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile", "haproxy.cfg"])
def test_variables_that_the_examples_name_exist(name: str) -> None:
    named = set(re.findall(r"CLAUDE_PROXY_\w+", (DEPLOY / name).read_text()))
    assert named
    assert named <= {setting.variable for setting in SETTINGS}


def test_the_release_publishes_without_a_password_what_it_has_tried() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    build, release = workflow["jobs"]["build"], workflow["jobs"]["release"]
    assert workflow["permissions"] == {"contents": "read"}
    # Nothing is built where the right to publish is.
    assert "permissions" not in build
    assert (release["needs"], release["permissions"]) == ("build", {"contents": "write", "id-token": "write"})
    steps = [*build["steps"], *release["steps"]]
    text = str(steps)
    assert "password" not in text.lower()
    assert "secrets." not in text
    runs = [step.get("run", step.get("uses", "")) for step in steps]
    order = [
        "python -m build", "test -f", "claude-max-api --version", "sha256sum -- ", "upload-artifact",
        "download-artifact", "sha256sum --check", "uv\" publish", "gh release create",
    ]  # fmt: skip
    found = [next(index for index, run in enumerate(runs) if word in run) for word in order]
    assert found == sorted(found)
    for step in steps:
        if "uses" in step:
            assert re.search(r"@[0-9a-f]{40}$", step["uses"])
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"].replace("-", "_")
    assert f"dist/{name}-" in text
