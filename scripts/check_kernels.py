"""Hold kernels that this processor cannot run to the portable ones, under an emulator: `make neon`, `make amx`.

    python scripts/check_kernels.py neon [--sanitize]
    python scripts/check_kernels.py amx --bochs FOLDER --linux VMLINUZ

neon: those of 64-bit ARM, under QEMU's user mode (`apt-get install g++-aarch64-linux-gnu qemu-user`). --sanitize: with
UBSan (QEMU has no room for AddressSanitizer's). On an ARM machine itself tests/unit/native runs the same set.

amx: those of x86-64's tile registers, which QEMU does not have, in a Linux of their own under Bochs (`apt-get install
isolinux xorriso`). FOLDER is Bochs's source, mended and built as docs/reference/native.md says; VMLINUZ a kernel from
5.16 on with a serial console. The driver is the only program of that machine.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache"
FLAGS = "-std=c++17 -Wall -Wextra -Werror -ffp-contract=off -O2 -Inative"
COMMON = {
    "native/kernels_portable.cpp": "-O3 -Wno-maybe-uninitialized -Wno-uninitialized",  # as in CMakeLists.txt
    "native/kernels.cpp": "",
    "native/trial.cpp": "",
    "native/cpu_features.cpp": "",
    "native/weights.cpp": "",
    "native/thread_pool.cpp": "",
    "scripts/kernel_driver.cpp": "",
}
NEON = COMMON | {"native/kernels_neon.cpp": "-O3 -march=armv8.2-a+dotprod"}
VECTORS = "-O3 -mfma -Wno-maybe-uninitialized -Wno-uninitialized"
AMX = COMMON | {
    "native/kernels_avx2.cpp": f"{VECTORS} -mavx2",
    "native/kernels_avx512.cpp": f"{VECTORS} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni",
}
SANITIZER = "-fsanitize=undefined -fno-sanitize-recover=all -g"
ISOLINUX = ("/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32")
# 580 is FSRM: Bochs has it without ERMS, which Linux's memmove does not expect.
BOOT = """DEFAULT driver
LABEL driver
  KERNEL /vmlinuz
  APPEND initrd=/initrd console=ttyS0 quiet mitigations=off nokaslr clearcpuid=580 rdinit=/driver panic=-1 -- amx
"""
MACHINE = """romimage: file={folder}/bios/BIOS-bochs-latest
vgaromimage: file={folder}/bios/VGABIOS-lgpl/VGABIOS-lgpl-latest.bin
cpu: model=sapphire_rapids, count=1, ips=200000000, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest=512, host=512
ata0-master: type=cdrom, path={disk}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={serial}
display_library: nogui
log: {log}
clock: sync=none
panic: action=fatal
"""
MOST_MINUTES = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", choices=("neon", "amx"))
    parser.add_argument("--sanitize", action="store_true", help="neon: with UBSan")
    parser.add_argument("--bochs", type=Path, help="amx: the folder in which Bochs was built")
    parser.add_argument("--linux", type=Path, help="amx: a kernel's image")
    arguments = parser.parse_args()
    if arguments.kernels == "neon":
        need("aarch64-linux-gnu-g++", "qemu-aarch64", packages="g++-aarch64-linux-gnu qemu-user")
        sanitizer = SANITIZER if arguments.sanitize else ""
        call(f"qemu-aarch64 {driver('aarch64-linux-gnu-g++', NEON, CACHE / 'neon', sanitizer)} neon")
        return
    if arguments.bochs is None or arguments.linux is None:
        parser.error("amx needs --bochs and --linux.")
    need("g++", "xorriso", *ISOLINUX, packages="g++ isolinux xorriso")
    need(str(arguments.bochs / "bochs"), str(arguments.linux), packages="docs/reference/native.md")
    program = driver("g++", AMX, CACHE / "amx", "-DT5KIT_HAS_AMX")
    emulate(program, arguments.bochs.resolve(), arguments.linux, CACHE / "amx")


def driver(compiler: str, sources: dict[str, str], folder: Path, more: str) -> Path:
    """Compile scripts/kernel_driver.cpp with its kernels and return the program."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for source, flags in sources.items():
        print(f"Compiling {source}", file=sys.stderr, flush=True)
        objects.append(str(folder / f"{Path(source).stem}.o"))
        call(f"{compiler} {FLAGS} {flags} {more} -c {source} -o {objects[-1]}")
    call(f"{compiler} {more} -static {' '.join(objects)} -o {folder / 'driver'} -lpthread")
    return folder / "driver"


def emulate(program: Path, bochs: Path, linux: Path, folder: Path) -> None:
    """Start a machine whose first program is the driver, and end as that does."""
    disk, serial = folder / "disk", folder / "serial.txt"
    shutil.rmtree(disk, ignore_errors=True)
    disk.mkdir()
    shutil.copy(linux, disk / "vmlinuz")
    (disk / "initrd").write_bytes(archive(program.name, program.read_bytes()))
    (disk / "isolinux.cfg").write_text(BOOT, encoding="utf-8")
    for file in ISOLINUX:
        shutil.copy(file, disk)
    image = folder / "disk.iso"
    boots = "-b isolinux.bin -no-emul-boot -boot-load-size 4 -boot-info-table"
    call(f"xorriso -as mkisofs -quiet -o {image} {boots} {disk}")
    machine = folder / "bochsrc"
    machine.write_text(
        MACHINE.format(folder=bochs, disk=image, serial=serial, log=folder / "bochs.txt"), encoding="utf-8"
    )
    serial.unlink(missing_ok=True)
    print("Starting the emulated machine", file=sys.stderr, flush=True)
    running = subprocess.Popen(
        [bochs / "bochs", "-q", "-f", machine], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    began = time.monotonic()
    try:
        while True:
            ended = running.poll() is not None
            said = serial.read_text(encoding="utf-8", errors="replace") if serial.exists() else ""
            for line in said.splitlines()[:-1]:
                if "checks held" in line or "FAILED" in line:
                    print(line)
                    sys.exit("FAILED" in line)
            ended = ended or "Kernel panic" in said
            if ended or time.monotonic() - began > MOST_MINUTES * 60:
                sys.exit(f"The machine said nothing of the checks. Its last words, in {serial}:\n{said[-2000:]}")
            time.sleep(1)
    finally:
        running.kill()
        running.wait()


def archive(name: str, content: bytes) -> bytes:
    """Return a file system of one program, in cpio's "new" format, whose numbers are 8 hexadecimal digits."""
    out = b""
    for path, mode, data in ((name, 0o100755, content), ("TRAILER!!!", 0, b"")):
        words = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % word for word in words) + path.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out


def need(*programs: str, packages: str) -> None:
    """End with a sentence where a program or file is missing."""
    for program in programs:
        if not shutil.which(program) and not Path(program).is_file():
            sys.exit(f"{program} is missing; it comes with: {packages}")


def call(command: str) -> None:
    code = subprocess.run(shlex.split(command), cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
