# Runs as process 1 of a new process and mount namespace: makes the machine's
# root folder and waits, inside it, for its standard input to end. What is
# mounted and what runs ends with it.
# Environment: LOWER, the folder with Debian and Guix; DIR, an empty one; GNU,
# the folder that becomes /gnu, or nothing for one in memory.
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$DIR/root" "$DIR/gnu" "$DIR/var-guix"
mount -t overlay -o "lowerdir=$LOWER,upperdir=$DIR/upper,workdir=$DIR/work" overlay "$DIR/root"
cd "$DIR/root"
mount -t proc proc proc
mount --rbind /dev dev
# No overlay under the store and its database: the one has hard links, the
# other shares memory between processes.
mount --bind "${GNU:-$DIR/gnu}" gnu
mount --bind "$DIR/var-guix" var/guix
mkdir -p gnu/store
chmod 0755 gnu
# Waiting, a shell also takes note of the orphans that end: they would be dead
# processes in /proc otherwise.
exec chroot . sh -c 'exec 3<&0 && echo ready && { cat <&3 >/dev/null & wait $!; }'
