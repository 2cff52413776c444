// A launcher as several agent CLIs have it: a Node script that probes the machine, then spawns the real program.
const { execSync, spawn } = require("node:child_process");

execSync("uname -m");
const child = spawn(process.argv[2], process.argv.slice(3), { stdio: "inherit" });
child.on("exit", (code, signal) => (signal ? process.kill(process.pid, signal) : process.exit(code)));
