"""The guest's root file system and its kernels, kept in the cache until the recipe changes."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from guest.packages import CACHE, Apt, VmError, archive, install_host_tools, run, say

HERE = Path(__file__).parent
TREE = HERE.parent.parent

PACKAGES = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "procps",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "zstd",
    "python3",
    "python3-venv",
    "python3-bpfcc",
    "libbpf1",
    "bpftool",
    "docker.io",
    "docker-cli",
    "podman",
    "crun",
    "tini",
    "catatonit",
    "bubblewrap",
    "libpam-systemd",
    "dbus-user-session",
    "busybox-static",
    "git",
    "gcc",
    "libc6-dev",
    "make",
    "nodejs",
    "strace",
    "xattr",
]

GUEST_PYTHON = "3.13"
"""Debian 13's Python: the wheels for the guest's environment are chosen for it."""

AGENT = "mini-swe-agent"
AGENT_NEEDS = ["python-dotenv", "jinja2", "platformdirs", "rich"]
"""What the agent's deterministic model imports.  Its declared dependencies are 700 MB of clients for
model services that the demo never contacts."""

KERNELS = {
    "6.12": [r"^linux-image-(6\.12\.[0-9]+\+deb13)-cloud-amd64$"],
    "6.18": [r"^linux-image-(6\.18\.[0-9]+\+deb13)-cloud-amd64$"],
    "7.3": [r"^linux-binary-unsigned-(7\.3\.[0-9]+\+deb13)-cloud-amd64$", r"^linux-binary-(7\.3\.[0-9]+\+deb13)-cloud-amd64$"],
}
"""Series and the name pattern of the package that holds the kernel image.  Release candidates don't
match: their names have no third number."""

SUITES = ["trixie", "trixie-backports", "experimental"]


def requirements() -> list[str]:
    """The project's dependencies and those of its tests, from ``pyproject.toml``."""
    import tomllib

    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["test"]]


def recipe() -> str:
    """A name for what the image is made of; another recipe is another image."""
    parts = [
        *(file.read_bytes() for file in sorted(HERE.glob("*.py")) if file.name == "image.py"),
        *((HERE / name).read_bytes() for name in ("init", "runner", "runner.service")),
        json.dumps(requirements()).encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def folder() -> Path:
    """Where the current recipe's image and kernels are."""
    return CACHE / "vm" / recipe()


def build() -> Path:
    """Make image and kernels unless they are there; returns their folder.

    One build at a time: a second caller waits for the first.
    """
    if os.geteuid():
        raise VmError("building the guest image needs root (mmdebstrap, package installation): run as root")
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        install_host_tools()
        if not (target / "done").exists():
            shutil.rmtree(target, ignore_errors=True)
            _build(target)
            _forget_older(target)
    return target


def _build(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as work:
        root = Path(work) / "root"
        say("downloading the project's dependencies for the guest's Python")
        wheels = _wheels(Path(work) / "wheels")
        say("building the guest's root file system from Debian packages (about a minute)")
        _debootstrap(root)
        _install_venv(root, wheels)
        kernels = {series: _kernel(series, patterns, Path(work), root) for series, patterns in KERNELS.items()}
        _install_units(root)
        say("packing the root file system")
        stage = Path(work) / "stage"
        stage.mkdir()
        run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, stage / "root.img", "5G")
        for series, release in kernels.items():
            _boot_files(root, release, stage / series)
        (stage / "kernels.json").write_text(json.dumps(kernels, indent=1))
        (stage / "done").touch()
        stage.rename(target)
    say("image ready: " + ", ".join(f"{series} = {release}" for series, release in kernels.items()))


def _wheels(folder: Path) -> Path:
    """Wheels for the guest's Python, fetched with this machine's pip and its configuration."""
    base: list[str | Path] = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", folder,
            "--python-version", GUEST_PYTHON, "--only-binary=:all:"]  # fmt: skip
    for tag in ("2_36", "2_28", "2_17"):
        base += ["--platform", f"manylinux_{tag}_x86_64"]
    base += ["--platform", "manylinux2014_x86_64", "--platform", "any"]
    run(*base, *requirements(), *AGENT_NEEDS)
    run(*base, "--no-deps", AGENT)
    return folder


def _debootstrap(root: Path) -> None:
    sources = [f"deb {archive()} {suite} main" for suite in SUITES[:2]]
    run("mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "trixie", root, *sources)  # fmt: skip


def _install_venv(root: Path, wheels: Path) -> None:
    shutil.copytree(wheels, root / "tmp/wheels")
    # bcc is Debian's own module, so the environment must see the system's packages.
    run("chroot", root, "python3", "-m", "venv", "--system-site-packages", "/opt/venv")
    pip: list[str | Path] = ["chroot", root, "env", "-i", "PATH=/usr/bin:/bin", "/opt/venv/bin/pip", "install", "-q", "--no-index",
           "--find-links=/tmp/wheels", "--no-warn-script-location"]  # fmt: skip
    run(*pip, *requirements(), *AGENT_NEEDS)
    run(*pip, "--no-deps", AGENT)
    shutil.rmtree(root / "tmp/wheels")
    # The project itself is the booted work tree, so that no image has an old copy of it.
    site = next((root / "opt/venv/lib").glob("python3*/site-packages"))
    (site / "agentcgroup-tree.pth").write_text("/tree\n")
    command = root / "opt/venv/bin/agentcgroup"
    command.write_text("#!/opt/venv/bin/python3\nimport sys\nfrom agentcgroup.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)


def _kernel(series: str, patterns: list[str], work: Path, root: Path) -> str:
    """Fetch a kernel of the series, put its modules into the image; returns its release."""
    apt = Apt("guest", SUITES)
    if not (work / "debs").exists():
        apt.get("update")
    found = {}
    for pattern in patterns:
        for name in apt.names(pattern):
            version = re.match(pattern, name)
            assert version
            found[name] = version[1]
    if not found:
        raise VmError(f"the Debian archive has no {series} cloud kernel now (looked for {patterns})")
    newest = max(found.values(), key=lambda text: [int(n) for n in re.findall(r"\d+", text)])
    release = f"{newest}-cloud-amd64"
    # The unsigned package has the same content and exists for every architecture and state of signing.
    image = max(name for name, version in found.items() if version == newest)
    extra = [name for kind in ("modules", "base") for name in apt.names(f"^linux-{kind}-{re.escape(release)}$")]
    say(f"kernel {series}: taking {release}")
    unpacked = work / f"kernel-{series}"
    for package in [image, *extra]:
        run("dpkg-deb", "-x", apt.download(package, work / "debs"), unpacked)
    # Older packages have /lib/modules, newer ones /usr/lib/modules; in the image /lib is a link.
    modules = next(path for path in unpacked.glob("**/lib/modules") if any(path.iterdir()))
    (root / "usr/lib/modules").mkdir(parents=True, exist_ok=True)
    run("cp", "-a", *modules.iterdir(), root / "usr/lib/modules/")
    images = [*unpacked.glob("boot/vmlinuz-*"), *unpacked.glob("**/lib/modules/*/vmlinuz*")]
    (root / "boot").mkdir(exist_ok=True)
    shutil.copy(images[0], root / "boot" / f"vmlinuz-{release}")
    run("chroot", root, "depmod", release)
    return release


def _install_units(root: Path) -> None:
    shutil.copy(HERE / "runner", root / "usr/local/sbin/runner")
    shutil.copy(HERE / "runner.service", root / "etc/systemd/system/runner.service")
    enabled = root / "etc/systemd/system/multi-user.target.wants"
    enabled.mkdir(parents=True, exist_ok=True)
    (enabled / "runner.service").symlink_to("/etc/systemd/system/runner.service")
    # Nothing here needs the periodic jobs of a long-lived host, and Docker starts at its first use.
    for unit in ("docker.service", "containerd.service"):
        (enabled / unit).unlink(missing_ok=True)
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer", "dpkg-db-backup.timer",
                 "systemd-networkd.service", "systemd-networkd.socket", "getty@tty1.service", "e2scrub_reap.service",
                 "systemd-networkd-wait-online.service", "systemd-timesyncd.service"):  # fmt: skip
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    login = root / "etc/systemd/system/serial-getty@ttyS0.service.d"
    login.mkdir()
    (login / "autologin.conf").write_text(
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noreset --noclear 115200 - linux\n"
    )
    # Agents start login shells, too: only the one on the console ends the guest.
    (root / "root/.bash_profile").write_text(
        'export PATH="/opt/venv/bin:$PATH"\n[ "$(tty)" = /dev/ttyS0 ] || return 0\n'
        "[ -e /job/size ] && . /job/size\ncd /tree\n"
        "trap 'sync; systemctl poweroff -ff' EXIT\n"
    )
    (root / "etc/fstab").write_text("")
    (root / "etc/hostname").write_text("agent-host\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost agent-host\n")
    for name in ("tree", "job", "scratch", "out"):
        (root / name).mkdir()


def _boot_files(root: Path, release: str, target: Path) -> None:
    """The kernel and a small initramfs that finds the virtual disk and goes on to systemd."""
    target.mkdir()
    shutil.copy(root / "boot" / f"vmlinuz-{release}", target / "vmlinuz")
    initramfs = target / "initramfs"
    for name in ("bin", "proc", "sys", "dev", "root", "modules"):
        (initramfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", initramfs / "bin/busybox")
    shutil.copy(HERE / "init", initramfs / "init")
    for name in ("virtio_blk", "ext4"):
        _copy_module(root, release, name, initramfs / "modules")
    files = run("find", ".", cwd=initramfs)
    with open(target / "initrd", "wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=files.encode(), stdout=out, cwd=initramfs, check=True)
    shutil.rmtree(initramfs)


def _copy_module(root: Path, release: str, name: str, target: Path) -> None:
    """Copy a module and what it needs, uncompressed, numbered in loading order; nothing if it is built in."""
    listed = run("chroot", root, "modprobe", "-S", release, "--show-depends", name)
    for line in listed.splitlines():
        if line.startswith("insmod "):
            source = root / line.split()[1].lstrip("/")
            order = f"{len(list(target.iterdir())):02}-{source.name}"
            if source.suffix == ".xz":
                (target / order.removesuffix(".xz")).write_bytes(
                    subprocess.run(["xz", "-dc", source], stdout=subprocess.PIPE, check=True).stdout
                )
            elif source.suffix == ".zst":
                run("zstd", "-q", "-d", source, "-o", target / order.removesuffix(".zst"))
            else:
                shutil.copy(source, target / order)


def _forget_older(current: Path) -> None:
    """Keep the newest three images: branches are switched back and forth, disks are finite."""
    images = sorted((path.parent for path in current.parent.glob("*/done")), key=lambda path: path.stat().st_mtime)
    for path in images[:-3]:
        shutil.rmtree(path, ignore_errors=True)
