# Runs as process 1 of new namespaces: makes the machine's root folder, as a
# container's, and becomes systemd.
# Environment: LOWER, folders to lay over each other, the upper ones first, with
# colons; DIR, an empty one.
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$DIR/root" "$DIR/gnu" "$DIR/var-guix"
mount -t overlay -o "lowerdir=$LOWER,upperdir=$DIR/upper,workdir=$DIR/work" overlay "$DIR/root"
cd "$DIR/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=0755 tmpfs dev
for name in null zero full random urandom tty; do
	touch "dev/$name"
	mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
# Settings of the kernel are the host's.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
# The store and its database are not overlays: the one has hard links, the other
# shares memory between processes.
mount --bind "$DIR/gnu" gnu
mount --bind "$DIR/var-guix" var/guix
mkdir -p gnu/store .host
rm -f usr/sbin/policy-rc.d
ip link set lo up
pivot_root . .host
umount -l .host
rmdir .host
mount --make-rshared /
exec env -i container=ersatz PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=no
