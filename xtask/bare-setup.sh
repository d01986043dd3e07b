#!/usr/bin/env bash
# Shows that `./x setup` needs nothing but Debian: runs it twice, as root, in a new minimal root file system with this
# working tree's files in it; the second run has to find nothing missing. Mounts and processes are in namespaces that end with it.
#
#   xtask/bare-setup.sh SUITE [TOOLCHAIN]     SUITE is bookworm or trixie
#
# TOOLCHAIN is a folder with bin/cargo of a Rust toolchain, for machines that do not reach static.rust-lang.org; without it
# the script installs Rust as a person's first `./x` does. Needs root, git, debootstrap and Debian's mirrors.
set -euo pipefail

suite=$1
toolchain=${2:-}
repository=$(cd "$(dirname "$0")/.." && pwd -P)
[ "$(id -u)" = 0 ] || { echo "bare-setup: needs root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "bare-setup: apt-get install debootstrap" >&2; exit 1; }

root=$(mktemp -d "/var/tmp/lambda-bare-$suite-XXXXXX")
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$root"

echo "==> bare-setup: $suite in $root"
debootstrap --variant=minbase "$suite" "$root" http://deb.debian.org/debian >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; rm "$root.log"; exit 1; }
rm "$root.log"
# The network is this machine's: its name servers, and certificate authorities that it adds to Debian's.
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/root/lambda" "$root/opt/rust" "$root/usr/local/share/ca-certificates"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$root/usr/local/share/ca-certificates" {} +
git -C "$repository" ls-files -z --cached --others --exclude-standard |
    (cd "$repository" && tar --create --null --files-from=- --ignore-failed-read --warning=no-failed-read) | tar --extract -C "$root/root/lambda"

# shellcheck disable=SC2016 # The inner shell expands it.
unshare --mount --pid --fork --kill-child --mount-proc="$root/proc" bash -euo pipefail -c '
    mount --rbind /dev "$1/dev"
    mount --bind /sys "$1/sys"
    [ -z "$2" ] || mount --bind -o ro "$2" "$1/opt/rust"
    clean() { chroot "$root" /usr/bin/env -i HOME=/root NO_COLOR=1 PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
    root=$1
    for run in first second; do
        echo "==> bare-setup: $run run of ./x setup"
        clean /root/lambda/x setup 2>&1 | tee "$root/said"
        clean test -x /root/.cache/lambda/tools/bin/cargo-deny
    done
    if grep installing "$root/said"; then exit 1; fi
' bash "$root" "$toolchain"
echo "==> bare-setup: $suite passed; the second run installed nothing"
