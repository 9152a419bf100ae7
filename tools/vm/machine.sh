# A virtual machine with a kernel of Debian's that runs this repository in place; sourced by tools/vm/test.
#
# QEMU interprets every instruction, so no rights on the processor are needed and nothing here says how fast anything
# is. The host's files are the guest's over read-only 9p, with a layer of memory above them, so what was built on the
# host runs there. QEMU and the kernel are unpacked under target/vm, not installed: they replace nothing on the machine.

CACHE=$PWD/target/vm
# Bound of one boot with all its checks, in seconds; a machine with other work needs most of it.
BOOT_SECONDS_MAX=600

# Modules of the guest's first moments, before it has the host's files.
FIRST_MODULES=(virtio_pci 9pnet_virtio 9p overlay)

# Puts the named packages' files under a folder, once.
unpack() {
    local to=$1 package
    shift
    [ -e "$to/complete" ] && return
    rm -rf "$to" && mkdir -p "$to/debs" || return 1
    (cd "$to/debs" && apt-get download -qq "$@" 2>/dev/null) || return 1
    for package in "$to"/debs/*.deb; do dpkg -x "$package" "$to" || return 1; done
    rm -rf "$to/debs"
    touch "$to/complete"
}

# The names of the packages that installing QEMU would add. It is only asked, so that it takes nothing away.
qemu_packages() {
    apt-get install -s --no-install-recommends qemu-system-x86 2>/dev/null | awk '/^Inst /{print $2}'
}

# Sets QEMU_COMMAND; fails with a reason on standard output where there is none.
find_qemu() {
    local root=$CACHE/qemu libraries packages
    if command -v qemu-system-x86_64 >/dev/null; then
        QEMU_COMMAND=(qemu-system-x86_64)
        return
    fi
    if [ ! -e "$root/complete" ]; then
        apt-get update -qq || { echo "apt-get update failed"; return 1; }
        packages=$(qemu_packages)
        [ -n "$packages" ] || { echo "apt-get knows no qemu-system-x86"; return 1; }
        # shellcheck disable=SC2086
        unpack "$root" $packages || { echo "the packages of QEMU could not be downloaded"; return 1; }
    fi
    libraries=$root/usr/lib/x86_64-linux-gnu
    QEMU_COMMAND=(env "LD_LIBRARY_PATH=$libraries" "QEMU_MODULE_DIR=$libraries/qemu" "$root/usr/bin/qemu-system-x86_64"
        -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu")
    "${QEMU_COMMAND[@]}" --version >/dev/null 2>&1 || { echo "QEMU does not start on this machine"; return 1; }
}

# Sets KERNEL (its release) and KERNEL_ROOT; fails with a reason on standard output.
find_kernel() {
    local package
    KERNEL_ROOT=$CACHE/kernel
    if [ ! -e "$KERNEL_ROOT/complete" ]; then
        package=$(apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-/{print $2; exit}')
        [ -n "$package" ] || { echo "apt-get knows no linux-image-amd64"; return 1; }
        unpack "$KERNEL_ROOT" "$package" || { echo "the package $package could not be downloaded"; return 1; }
    fi
    KERNEL=$(ls "$KERNEL_ROOT/lib/modules")
    [ -e "$KERNEL_ROOT/lib/modules/$KERNEL/modules.dep" ] || depmod -b "$KERNEL_ROOT" "$KERNEL"
}

# The first files of the guest: busybox, a few modules, and tools/vm/guest/init.
make_initrd() {
    local root=$CACHE/initrd module
    rm -rf "$root" && mkdir -p "$root"/{bin,modules,dev,proc,sys,lower,upper,new}
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp tools/vm/guest/init "$root/init"
    chmod +x "$root/init"
    for module in "${FIRST_MODULES[@]}"; do
        modprobe -d "$KERNEL_ROOT" -S "$KERNEL" --show-depends "$module" | awk '$1 == "insmod" {print $2}'
    done | awk '!seen[$0]++' | while read -r module; do
        cp "$module" "$root/modules/"
        basename "$module" >>"$root/modules/order"
    done
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$CACHE/initrd.gz"
}

# What costs an emulated machine and gives it nothing: page tables of five levels, a clock that is read from a device because the
# counters of two processors might differ (they are one), mitigations of what an interpreter does not do, pages zeroed twice.
CPU=max,la57=off
COMMAND_LINE="tsc=reliable mitigations=off init_on_alloc=0"

# Boots and waits until the guest has ended: boot OUT, a folder the guest writes to. A kernel of which a processor has
# stood for 40 seconds ends with what it stood in on the console, in place of standing until the bound.
boot() {
    local out=$1
    timeout --kill-after=5 "$BOOT_SECONDS_MAX" "${QEMU_COMMAND[@]}" \
        -accel tcg,thread=multi -cpu "$CPU" -smp 2 -m 2048 -M q35 -nographic -no-reboot -nodefaults \
        -serial "file:$out/console" -kernel "$KERNEL_ROOT/boot/vmlinuz-$KERNEL" -initrd "$CACHE/initrd.gz" \
        -append "console=ttyS0 quiet panic=-1 softlockup_panic=1 watchdog_thresh=20 $COMMAND_LINE" \
        -fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap" \
        -device virtio-9p-pci,fsdev=root,mount_tag=root \
        -fsdev "local,id=out,path=$out,security_model=none" -device virtio-9p-pci,fsdev=out,mount_tag=out \
        -netdev hubport,id=h0,hubid=0 -device e1000,netdev=h0,romfile=,mac=52:54:00:00:00:01 \
        -netdev hubport,id=h1,hubid=0 -device e1000,netdev=h1,romfile=,mac=52:54:00:00:00:02 \
        </dev/null >"$out/qemu" 2>&1
}

# Whether the guest's kernel itself stood, which no process can make it do: stood OUT. Soft-RoCE of Linux before 6.4 has
# races between the task of a queue pair and the thread that posts ("RDMA/rxe: Rewrite rxe_task.c").
stood() {
    [ "$(cat "$1/status" 2>/dev/null)" != complete ] && grep -q 'Kernel panic - not syncing: softlockup' "$1/console"
}
