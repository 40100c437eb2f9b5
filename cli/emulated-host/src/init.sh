#!/bin/busybox sh
# First program of the emulated host: stacks this machine's root and hands over to the Rust half.
# What it needs is on the kernel's command line, as printf's %b reads it.
B=/bin/busybox
die() { echo "emulated host: $*"; $B poweroff -f; }

$B mkdir -p /proc /sys /dev /lower /upper /root
$B mount -t proc proc /proc && $B mount -t sysfs sys /sys && $B mount -t devtmpfs dev /dev || die "no proc, sys or dev"
while read -r module; do $B insmod "/modules/$module" || die "cannot load $module"; done </modules/order

$B mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=262144 host /lower || die "cannot mount the shared root"
$B mount -t tmpfs -o size=75%,mode=755 upper /upper && $B mkdir /upper/files /upper/work || die "no memory for the overlay"
$B mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /root || die "cannot stack the root"
for kind in proc sys dev; do $B mount --move /$kind /root/$kind || die "cannot move /$kind"; done

for word in $($B cat /root/proc/cmdline); do
    case $word in
    bulkhead.program=*) program=$($B printf '%b' "${word#*=}") ;;
    bulkhead.spec=*) spec=$($B printf '%b' "${word#*=}") ;;
    esac
done
exec $B switch_root /root "$program" guest "$spec" || die "cannot run $program"
