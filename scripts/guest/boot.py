"""Boot the image with the current work tree inside, run a command there, bring back what it wrote."""

import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from guest.image import KERNELS, TREE
from guest.packages import CACHE, VmError, run, say

FAILED = 125
"""Exit code when the guest ended without a result: panic, power-off, QEMU's own failure."""
TIMED_OUT = 124
"""Exit code when the time was up, as timeout(1) has it."""
TRY_AGAIN = 75
"""Exit code when software emulation broke the guest (EX_TEMPFAIL of sysexits.h): see ``lost_race``."""
PROBE_SECONDS = 10
SIMPLE_CPU = "Nehalem"
"""The wide vector registers of newer processors, which C libraries then use, are emulated slowly: a quarter of the time is theirs."""


@dataclass(frozen=True)
class Guest:
    """What to boot: kernel series, memory and kind of processor (QEMU's notation), processors, time limit in seconds."""

    kernel: str = "7.3"
    memory: str = "3G"
    cpus: int = 2
    timeout: float = 1800
    out: Path | None = None
    cpu: str = SIMPLE_CPU
    extra: list[tuple[Path, str]] = field(default_factory=list)
    """Further host files or folders to be seen in the guest as ``/job/<name>``."""


def _tree_files() -> list[str]:
    """The work tree as git sees it: tracked and new files, without what is ignored; and the compiled BPF objects."""
    subprocess.run([TREE / "scripts/bpf"], check=True, stdout=sys.stderr)
    listed = run("git", "-C", TREE, "ls-files", "-z", "-c", "-o", "--exclude-standard").split("\0")
    listed += [str(path.relative_to(TREE)) for folder in ("bpf", "tests/vm") for path in (TREE / folder).glob("*.bpf.o")]
    return [name for name in listed if name and (TREE / name).is_file()]


def _disks(guest: Guest, command: list[str] | None, work: Path) -> list[str]:
    """QEMU arguments for the disks vdb (tree and job), vdc (scratch), vdd (out)."""
    stage = work / "stage"
    for name in _tree_files():
        target = stage / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TREE / name, target)
    job = stage / "job"
    job.mkdir(parents=True)
    columns, lines = shutil.get_terminal_size((120, 40))
    (job / "size").write_text(f"export COLUMNS={columns} LINES={lines}\n[ -t 0 ] && stty cols {columns} rows {lines}\n")
    if command is not None:
        (job / "command").write_text(shlex.join(command) + "\n")
    for source, name in guest.extra:
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, job / name)
    run("mke2fs", "-q", "-t", "ext4", "-d", stage, "-E", "root_owner=0:0", work / "tree.img", "1G")
    run("mke2fs", "-q", "-t", "ext4", work / "scratch.img", "12G")
    run("mke2fs", "-q", "-t", "ext4", work / "out.img", "1G")
    arguments = []
    for name, readonly in (("tree", "on"), ("scratch", "off"), ("out", "off")):
        arguments += ["-drive", f"file={work / name}.img,if=virtio,format=raw,cache=unsafe,readonly={readonly}"]
    return arguments


def accelerator(image: Path, cpu: str) -> list[str]:
    """KVM where it has run this image's kernel on this boot of the machine, else software emulation of the processor ``cpu``.

    A ``/dev/kvm`` that opens may still not run a stock kernel (nested virtualisation), so one boot
    of the initramfs decides, once per boot of the machine.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = CACHE / "vm" / "kvm.json"
    try:
        works = json.loads(known.read_text())[boot_id]
    except (OSError, ValueError, KeyError):
        works = _kvm_works(image)
        known.write_text(json.dumps({boot_id: works}))
        say(f"KVM {'works here' if works else 'does not run a stock kernel here: using software emulation (slow)'}")
    if works:
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", cpu]


def _kvm_works(image: Path) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    kernel = image / "6.12"
    command: list[str | Path] = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "256M", "-nographic", "-no-reboot", "-nic", "none",
               "-kernel", kernel / "vmlinuz", "-initrd", kernel / "initrd",
               "-append", "console=ttyS0 panic=-1 quiet agentcgroup.probe"]  # fmt: skip
    try:
        tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return b"agentcgroup-probe-ok" in tried.stdout


def _qemu(guest: Guest, image: Path, work: Path, command: list[str] | None) -> list[str]:
    kernel = image / guest.kernel
    append = "root=/dev/vda console=ttyS0 panic=-1 oops=panic quiet loglevel=4 systemd.show_status=false psi=1"
    append += " random.trust_cpu=on mitigations=off" + ("" if command is None else " systemd.mask=serial-getty@ttyS0.service")
    return [
        "qemu-system-x86_64", *accelerator(image, guest.cpu), "-smp", str(guest.cpus), "-m", guest.memory,
        "-display", "none", "-no-reboot", "-nic", "none", "-object", "rng-random,id=rng,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=rng",
        "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initrd"), "-append", append,
        "-drive", f"file={image / 'root.img'},if=virtio,format=raw,snapshot=on,cache=unsafe",
        *_disks(guest, command, work),
    ]  # fmt: skip


def shell(guest: Guest, image: Path) -> int:
    """A prompt in the guest, on this terminal."""
    with tempfile.TemporaryDirectory(prefix="agentcgroup-vm-") as name:
        say("leave with 'exit' or Ctrl-A x")
        qemu = _qemu(guest, image, Path(name), None)
        code = subprocess.run([*qemu, "-serial", "mon:stdio"]).returncode
        _bring_back(guest, Path(name))
        return code


def boot(guest: Guest, image: Path, command: list[str]) -> int:
    """Run ``command`` as root in the guest, stream its output to ours; returns its exit code.

    Raises VmError where the guest broke instead of ending; the time-out is the code TIMED_OUT.
    """
    release = json.loads((image / "kernels.json").read_text())[guest.kernel]
    say(f"booting {release}, {guest.memory}, {guest.cpus} processors")
    with tempfile.TemporaryDirectory(prefix="agentcgroup-vm-") as name:
        work = Path(name)
        output, output_end = os.pipe()
        status, status_end = os.pipe()
        qemu = _qemu(guest, image, work, command)
        qemu += ["-serial", f"file:{work / 'console'}", "-device", "virtio-serial-pci"]
        for port, end in (("out", output_end), ("status", status_end)):
            qemu += ["-chardev", f"file,id={port},path=/dev/fd/{end}", "-device", f"virtserialport,chardev={port},name={port}"]
        process = subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   pass_fds=(output_end, status_end), start_new_session=True)  # fmt: skip
        os.close(output_end)
        os.close(status_end)
        try:
            finished = _stream(output, process, time.monotonic() + guest.timeout)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            errors = process.communicate()[1].decode(errors="replace")
        _bring_back(guest, work)
        if not finished:
            say(f"time-out: the command was still running after {guest.timeout:.0f} s")
            _show_console(work)
            return TIMED_OUT
        code = os.read(status, 64).strip()
        if not code:
            if lost_race(_show_console(work), qemu):
                say(
                    "software emulation lost a race with the kernel, which patched its own code: nothing that ran here is to blame"
                )
                return TRY_AGAIN
            raise VmError(f"the guest ended without a result (panic, or switched off) {errors.strip()[-500:]}")
        return int(code)


def _stream(output: int, process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Copy the guest's output until QEMU ends; False when the deadline came first."""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([output], [], [], min(left, 1.0))[0]:
            data = os.read(output, 65536)
            if not data:
                process.wait(timeout=max(left, 1))
                return True
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    return False


def lost_race(console: str, qemu: list[str]) -> bool:
    """Whether the guest met the breakpoint that its kernel sets for a moment while it patches a jump.

    A processor takes the exception and finds out; QEMU's, one thread for each, now and then goes on as if nobody had set one.
    """
    return "tcg,thread=multi" in ",".join(qemu) and "Oops: int3" in console


def _show_console(work: Path) -> str:
    """Say how the console ends; returns all that is on it."""
    text = (work / "console").read_text(errors="replace") if (work / "console").exists() else ""
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", text).strip().splitlines()[-60:]
    say("the guest's console, at the end:\n  " + "\n  ".join(lines))
    return text


def _bring_back(guest: Guest, work: Path) -> None:
    """Copy what the guest wrote to /out into the folder asked for."""
    if guest.out is None:
        return
    guest.out.mkdir(parents=True, exist_ok=True)
    disk = work / "out.img"
    # A guest that crashed left its journal behind; replaying it is what makes the files readable.
    subprocess.run(["e2fsck", "-fp", disk], capture_output=True)
    run("debugfs", "-R", f"rdump / {guest.out}", disk)
    shutil.rmtree(guest.out / "lost+found", ignore_errors=True)


def check(guest: Guest) -> None:
    """Raise VmError for values that QEMU would refuse with a riddle."""
    if guest.kernel not in KERNELS:
        raise VmError(f"no kernel series {guest.kernel!r}: choose one of {', '.join(KERNELS)}")
    if not re.fullmatch(r"[1-9]\d*[MG]", guest.memory):
        raise VmError(f"memory {guest.memory!r} is not a size like 3G or 1500M")
    if guest.cpus < 1:
        raise VmError("a guest needs at least one processor")
