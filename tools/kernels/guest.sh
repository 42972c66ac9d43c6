#!/bin/sh
# Runs the tests inside the guest, as its first process, and turns it off. $1: the checkout.
# /mnt is the host's directory for results: tests (one word a line) in, report.xml and status out.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
cd "$1" || exit
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
for module in virtio_blk ext4 fuse loop erofs; do modprobe "$module"; done
mount -t ext4 /dev/vda /var/tmp
chmod 1777 /var/tmp
echo "guest: kernel $(uname -r), $(nproc) processors, up for $(cut -d' ' -f1 /proc/uptime) s"
.venv/bin/hotstart --json --root /var/tmp/root doctor > /mnt/doctor.json
export PYTHONDONTWRITEBYTECODE=1 CI=true REQUIRE_KERNEL_TESTS=1 COMMAND_TIMEOUT_S=500
EXPECTED_ABSENT=$(cat /mnt/absent)
export EXPECTED_ABSENT
# shellcheck disable=SC2046  # words
.venv/bin/python -m pytest -q -p no:cacheprovider -o faulthandler_timeout=0 \
    --timeout 600 --junit-xml /mnt/report.xml $(cat /mnt/tests)
echo $? > /mnt/status
sync
busybox poweroff -f
