# shellcheck shell=bash
# A node as a machine of its own: its processes, mounts, network and host name are namespaces, so that all of
# it goes at once when its first process is killed, as when a machine loses power. Runs in the cluster's folder.

number_of() {
  case $1 in a) echo 1 ;; b) echo 2 ;; *) fail "no node is called $1" ;; esac
}

power_on() {
  local name=$1 number own=$home/node-$1 file
  number=$(number_of "$name")
  [[ ! -e run/machine-$name.init ]] || fail "node $name is on"
  mkdir -p "$own"/{cni,kubelet,run,varlog,varkubelet,varcni,log}
  # What the last machine had running is gone with it.
  rm -rf "$own"/run/*
  for file in containerd.toml kubelet.yaml proxy.yaml; do
    sed "s#@N@#$name#g; s#@I@#$number#g" "etc/$file" >"$own/$file"
  done
  sed "s#@I@#$number#g" etc/pods.conflist >"$own/cni/10-pods.conflist"
  first_process "$name" "$own"
  local init
  init=$(cat "run/machine-$name.init")
  ip link add "rk${id}v$name" type veth peer name eth0 netns "$init"
  ip link set "rk${id}v$name" master "rk${id}lan" up
  inside=(nsenter -t "$init" -m -n -p -u -i --)
  "${inside[@]}" ip addr add "$net.0.1$number/24" dev eth0
  "${inside[@]}" ip link set eth0 up
  "${inside[@]}" ip route add default via "$net.0.1"
  ip route replace "$net.$number.0/24" via "$net.0.1$number"
  control_groups "$name"

  # None of these needs an end of its own: they end with the machine.
  setsid nohup "${inside[@]}" containerd --config "$own/containerd.toml" >>"log/containerd-$name.log" 2>&1 </dev/null &
  until_true "containerd of node $name does not answer" ctr -a "$own/c.sock" version >/dev/null 2>&1
  for file in images/*.tar; do load_image "$name" "$file"; done
  setsid nohup "${inside[@]}" "$bin/kubelet" --config="$own/kubelet.yaml" --kubeconfig="$home/etc/node-$name.kubeconfig" \
    --root-dir="$own/kubelet" --cert-dir="$own/kubelet/pki" --hostname-override="node-$name" \
    --node-ip="$net.0.1$number" >>"log/kubelet-$name.log" 2>&1 </dev/null &
  setsid nohup "${inside[@]}" "$bin/kube-proxy" --config="$own/proxy.yaml" >>"log/proxy-$name.log" 2>&1 </dev/null &
}

# Starts a machine's first process, which reaps orphans and binds what programs would write outside of the
# cluster's folder. /sys stays, for the control groups that are mounted there.
first_process() {
  local name=$1 own=$2
  rm -f "$own/up"
  # shellcheck disable=SC2016
  setsid nohup unshare --fork --kill-child --pid --mount --mount-proc --net --uts --ipc -- bash -c '
    own=$1
    hostname "node-$2"
    mount --make-rprivate /
    mkdir -p /var/log/containers /var/lib/kubelet /var/lib/cni
    mount --bind "$own/run" /run
    mount --bind "$own/varlog" /var/log/containers
    mount --bind "$own/varkubelet" /var/lib/kubelet
    mount --bind "$own/varcni" /var/lib/cni
    mkdir -p /run/netns /run/containerd
    ip link set lo up
    echo 1 >/proc/sys/net/ipv4/ip_forward
    touch "$own/up"
    sleep infinity & while :; do wait; sleep 1; done' machine "$own" "$name" >>"log/machine-$name.log" 2>&1 </dev/null &
  echo $! >"run/machine-$name.pid"
  until_true "node $name does not start" test -e "$own/up"
  pgrep -P "$(cat "run/machine-$name.pid")" >"run/machine-$name.init"
}

# The first hierarchy's groups do not come by themselves, and a new cpuset has no processor.
control_groups() {
  local controller file
  for controller in /sys/fs/cgroup/*/; do
    [[ ! -L ${controller%/} ]] || continue
    mkdir -p "${controller}rekeyd-$id-$1"
  done
  for file in cpuset.cpus cpuset.mems; do
    [[ ! -e /sys/fs/cgroup/cpuset/$file ]] ||
      cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/rekeyd-$id-$1/$file"
  done
}

load_image() {
  local name=$1
  nsenter -t "$(cat "run/machine-$name.init")" -m -n -p -u -i -- \
    ctr -a "$home/node-$name/c.sock" -n k8s.io images import --snapshotter overlayfs "$home/$2" >/dev/null
}

power_off() {
  local name=$1 group init
  if init=$(cat "run/machine-$name.init" 2>/dev/null); then
    if [[ $(tr '\0' ' ' <"/proc/$init/cmdline" 2>/dev/null) == *"$home/"* ]]; then kill -KILL "$init" 2>/dev/null || true; fi
    while [[ -e /proc/$init && $(state_of "$init") != Z ]]; do sleep 0.02; done
    rm -f "run/machine-$name.init"
  fi
  end_process "machine-$name"
  ip link del "rk${id}v$name" 2>/dev/null || true
  ip route del "$net.$(number_of "$name").0/24" 2>/dev/null || true
  for group in /sys/fs/cgroup/*/"rekeyd-$id-$name"; do
    [[ -d $group ]] || continue
    local end=$((SECONDS + deadline))
    until [[ -z $(find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null) ]]; do
      ((SECONDS < end)) || fail "processes of node $name do not end"
      sleep 0.05
    done
    find "$group" -depth -type d -exec rmdir {} \;
  done
}
