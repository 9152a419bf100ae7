# Shared by tools/demo and tools/test; sourced, never run.

# Says what is wrong and what to do, and ends.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Network namespaces, packet sockets and hugepages are for root.
need_root() {
    [ "$(id -u)" -eq 0 ] || die "run it as root: it makes network namespaces and opens packet sockets"
}

# The toolchain is the one thing this does not install.
need_cargo() {
    if ! command -v cargo >/dev/null && [ -r "$HOME/.cargo/env" ]; then
        # shellcheck disable=SC1091
        . "$HOME/.cargo/env"
    fi
    command -v cargo >/dev/null || die "cargo is missing: install a Rust toolchain (https://rustup.rs), then run it again"
}

# Installs those of the named Debian packages that are missing; touches nothing when none is.
need_packages() {
    local package missing=()
    command -v dpkg-query >/dev/null || die "this is no Debian: install the equivalents of $* yourself, then comment this check out"
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    echo "installing ${missing[*]}"
    apt-get update -qq || die "apt-get update failed: the packages ${missing[*]} are needed"
    # --no-remove: a machine's own packages are never traded for these.
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-remove --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install ${missing[*]}"
}

# Builds an executable of the workspace and says where it is: built NAME OPTION... Of one package alone cargo would build many
# crates again, with the features that this package wants of them; of the whole workspace they are those tests have.
built() {
    local name=$1
    shift
    cargo build -q --workspace --bin "$name" "$@" --message-format=json |
        sed -n "s/.*\"executable\":\"\([^\"]*\/$name\)\".*/\1/p"
}

# What building and running a node takes.
NODE_PACKAGES=(build-essential libdpdk-dev clang libclang-dev pkg-config iproute2 ethtool procps
    libibverbs-dev libnl-3-dev libnl-route-3-dev cmake ibverbs-providers
    protobuf-compiler libprotobuf-dev)

# What the virtual machine of tools/vm takes, beside QEMU and a kernel, which are unpacked and not installed.
VM_PACKAGES=(busybox-static cpio kmod)
