#!/busybox sh
# What lambda-guest does between the kernel's start and the hand-over to init, without attestation: modules, the root file
# system, a fresh LUKS2 volume with authenticated encryption, the overlay, the network. The root is mounted without dm-verity,
# which favours this side of the comparison.
b=/busybox
$b mkdir -p /proc /sys /dev /run /lower /volume /newroot
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
$b mount -t tmpfs -o mode=0755 tmpfs /run
for module in $($b cat /modules/order); do $b insmod "/modules/$module"; done
while :; do
    for disk in /sys/block/vd*; do
        case $($b cat "$disk/serial" 2>/dev/null) in
            lambda-root) root=/dev/${disk##*/} ;;
            lambda-volume) volume=/dev/${disk##*/} ;;
        esac
    done
    [ -n "$root" ] && [ -n "$volume" ] && break
    $b usleep 10000
done
$b head -c 32 /dev/urandom >/key
cryptsetup luksFormat -q --type luks2 --cipher aes-gcm-random --key-size 256 --integrity aead --integrity-no-wipe \
    --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --sector-size 4096 --key-file /key "$volume"
cryptsetup open --key-file /key "$volume" volume
mapped=/dev/mapper/volume
bytes=$($b blockdev --getsize64 "$mapped")
$b dd if=/dev/zero of="$mapped" bs=4096 count=256 oflag=direct status=none
$b dd if=/dev/zero of="$mapped" bs=4096 count=32 seek=$((bytes / 4096 - 32)) oflag=direct status=none
mkfs.ext4 -q -D -b 4096 -O sparse_super2 -E num_backup_sb=0,lazy_itable_init=1,lazy_journal_init=1,nodiscard "$mapped"
$b mount -t ext4 -o noatime "$mapped" /volume
$b mount -t erofs -o ro "$root" /lower
$b mkdir -p /volume/upper /volume/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/volume/upper,workdir=/volume/work overlay /newroot
$b ifconfig lo 127.0.0.1 up
$b ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
$b mkdir -p /run/lambda /newroot/home/lambda/.ssh
$b cp /host_key /run/lambda/ssh_host_ed25519_key
$b chmod 600 /run/lambda/ssh_host_ed25519_key
$b cp /authorized_keys /newroot/home/lambda/.ssh/authorized_keys
$b chown -R 1000:1000 /newroot/home/lambda/.ssh
$b chmod 700 /newroot/home/lambda/.ssh
for folder in proc sys dev run; do $b mount -o move /$folder /newroot/$folder; done
exec $b switch_root /newroot /sbin/init
