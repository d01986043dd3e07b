# Process 1 of a machine of its own, seen from inside: own processes, network, mounts, and empty folders for temporary files.
# The folders that the arguments name are at /mnt/1, /mnt/2 and so on.
set -eu
mount -t tmpfs tmpfs /mnt
number=1
for folder in "$@"; do
    mkdir "/mnt/$number"
    mount --bind "$folder" "/mnt/$number"
    number=$((number + 1))
done
mkdir -m 1777 /mnt/home
for folder in /tmp /var/tmp /dev/shm /run; do
    [ ! -d "$folder" ] || mount -t tmpfs -o mode=1777 tmpfs "$folder"
done
# umount makes the second when it is not there.
mkdir -m 755 /run/data /run/mount
ip link set lo up
touch /mnt/home/ready
# Takes in the processes that lose their parents, as any process 1 does.
while :; do
    sleep 3600 &
    wait $! || :
done
