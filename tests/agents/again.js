// A Node agent that starts itself again, after it has looked at its terminal ("touch") or at once ("plain"); the second one runs a call.
const { spawn, execSync } = require('child_process')
if (process.argv[2] !== 'second') {
  if (process.argv[2] === 'touch') process.stdout.write('')
  spawn(process.execPath, [__filename, 'second'], { stdio: 'inherit' }).on('exit', (code) => process.exit(code))
} else {
  console.log('read: ' + execSync('sleep 1; echo hello'))
}
