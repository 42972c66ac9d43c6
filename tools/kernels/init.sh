#!/bin/busybox sh
# The guest's first process: mounts the host's root below a writable layer in memory and goes there.
# Whatever fails ends the guest, whose run then lacks its status and counts as failed.
export PATH=/bin
/bin/busybox --install -s /bin
fail() { echo "guest: $1"; poweroff -f; }
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev || fail "no /proc, /sys or /dev"
while read -r module; do insmod "$module" || fail "cannot load $module"; done < /modules/order
shared=trans=virtio,version=9p2000.L,msize=1048576
mount -t 9p -o "$shared,ro,cache=loose" host /lower || fail "cannot mount the host's root"
mount -t tmpfs memory /memory && mkdir /memory/upper /memory/work || fail "no memory for the writable layer"
mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work overlay /root ||
    fail "cannot mount the overlay"
mkdir -p /root/usr/lib/modules
mount -t 9p -o "$shared,ro,cache=loose" modules /root/usr/lib/modules || fail "cannot mount the modules"
mount -t 9p -o "$shared" results /root/mnt || fail "cannot mount the directory for results"
for name in proc sys dev; do mount --move "/$name" "/root/$name"; done
mount -t tmpfs run /root/run
checkout=$(sed 's/.*hotstart\.checkout=\([^ ]*\).*/\1/' /root/proc/cmdline)
exec switch_root /root /bin/sh "$checkout/tools/kernels/guest.sh" "$checkout" || fail "cannot enter the root"
