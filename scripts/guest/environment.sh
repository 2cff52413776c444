# Sourced by the scripts: a Python environment with the project's dependencies, outside the tree.
# Sets VENV and puts it on PATH; it is made anew when the libraries change.
say() { echo "$SCRIPT: $*" >&2; }

# Nothing but what has a hash in a lock file; where it comes from is what this machine's pip is set to.
install_locked() {
  "$VENV/bin/pip" install -q --disable-pip-version-check --require-hashes "$@" 2>&1 | { grep -v '^WARNING' >&2 || true; }
}

CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/agentcgroup"
VENV="$CACHE/venv-$(sha256sum scripts/requirements-dev.lock | cut -c1-12)"
if [ ! -e "$VENV/done" ]; then
  say "installing the project's dependencies into $VENV (about a minute)"
  if ! python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "installing python3-venv on this machine"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null
  fi
  rm -rf "$VENV"
  python3 -m venv "$VENV"
  install_locked -r scripts/requirements-dev.lock
  printf '#!%s/bin/python3\nimport sys\nfrom agentcgroup.cli import main\nsys.exit(main())\n' "$VENV" >"$VENV/bin/agentcgroup"
  chmod +x "$VENV/bin/agentcgroup"
  touch "$VENV/done"
fi
scripts/bpf
# The work tree itself, not a copy of it; several trees may share the environment, so the latest counts.
pwd >"$(echo "$VENV"/lib/python3*/site-packages)/agentcgroup-tree.pth"
export PATH="$VENV/bin:$PATH"

need_agent() {
  # Its declared dependencies are 700 MB of clients for model services; the scripted model needs none.
  python3 -c "import minisweagent" 2>/dev/null ||
    "$VENV/bin/pip" install -q --disable-pip-version-check --no-deps mini-swe-agent python-dotenv jinja2 markupsafe platformdirs 2>&1 | grep -v '^WARNING' >&2 || true
}
