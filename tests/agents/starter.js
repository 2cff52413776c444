// An agent that starts as npm programs do: a Node program that starts itself again with its own stdio, looks around with many short
// commands, and ends.  Its commands are captured, as those of agents are.
const { spawnSync } = require("node:child_process");

if (process.argv[2] !== "runtime") {
  process.exit(spawnSync(process.execPath, [__filename, "runtime"], { stdio: "inherit" }).status);
}
for (let turn = 0; turn < 4; turn++) {
  for (const words of [["git", "--version"], ["uname", "-a"], ["sh", "-c", "command -v python3; id -u"]]) {
    spawnSync(words[0], words.slice(1), { encoding: "utf8" });
  }
}
