# What programs could leave on this machine, one a line: the kind, then what it is.
set -u
for status in /proc/[0-9]*/status; do
    process=${status%/status}
    pid=${process#/proc/}
    [ "$pid" -ne 1 ] && [ "$pid" -ne $$ ] && [ -r "$status" ] || continue
    command=$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null) || continue
    [ "$command" = "sleep 3600 " ] || [ -z "$command" ] || printf 'process %s\n' "$command"
    network=$(readlink "$process/ns/net" 2>/dev/null) || continue
    [ "$network" = "$(readlink /proc/1/ns/net)" ] || printf 'namespace %s\n' "$network"
done
ip netns list | sed 's/^/namespace /'
ip -o link | cut -d' ' -f2 | sed 's/^/link /'
nft list tables | sed 's/^/nft /'
awk 'NR > 1 && NF > 7 { print "socket " $8 }' /proc/net/unix
cut -d' ' -f2,3 /proc/self/mounts | sed 's/^/mount /'
for folder in /tmp /var/tmp /dev/shm /run /mnt/home; do
    find "$folder" -mindepth 1 | sed 's/^/file /'
done
for folder in /etc /var/lib /var/log /var/cache; do
    find "$folder" -maxdepth 1 -mindepth 1 | sed 's/^/file /'
done
cat /proc/[0-9]*/cgroup 2>/dev/null | sed -n 's|^[^:]*:[^:]*:\(.*/lambda-.*\)|incgroup \1|p'
