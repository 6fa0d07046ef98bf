# shellcheck shell=bash
# What the programs of a development cluster are told: certificates, tokens, configuration files, and the
# image of the smallest pod. Runs in the cluster's folder, which `home` names.

configure() {
  mkdir -p pki etc
  certificates
  accounts
  encryption
  audit
  nodes_alike
  pause_image
}

certificates() {
  (
    umask 077
    cd pki
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 30 -subj '/CN=rekeyd development cluster' -out ca.crt
    openssl genrsa -out accounts.key 2048 2>/dev/null
    openssl rsa -in accounts.key -pubout -out accounts.pub 2>/dev/null
    local name services=kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local
    certificate apiserver /CN=kube-apiserver serverAuth \
      "IP:127.0.0.1,IP:$net.0.1,IP:10.96.0.1,DNS:localhost,DNS:${services//,/,DNS:}"
    certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
    for name in "${nodes[@]}"; do
      certificate "kubelet-$name" "/CN=node-$name" serverAuth "IP:$net.0.1$(number_of "$name")"
    done
    rm ca.key
  )
  chmod 644 pki/*.crt pki/*.pub
}

certificate() { # NAME SUBJECT USE [NAMES]
  openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -sha256 -out "$1.crt" \
    -extfile <(printf 'extendedKeyUsage=%s\n%s' "$3" "${4:+subjectAltName=$4}") 2>/dev/null
  rm "$1.csr"
}

# Who speaks to the API server. Tokens are drawn; none is an argument of a process.
accounts() {
  local line user token
  (
    umask 077
    for line in admin,admin,system:masters controllers,system:kube-controller-manager, \
      scheduler,system:kube-scheduler, proxy,system:kube-proxy, "${nodes[@]/#/node-}"; do
      user=${line%%,*}
      [[ $line == *,* ]] || line=$user,system:node:$user,system:nodes
      token=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
      printf '%s,%s,%s,"%s"\n' "$token" "$(cut -d, -f2 <<<"$line")" "$user" "$(cut -d, -f3 <<<"$line")" >>etc/tokens.csv
      cat >"etc/$user.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: dev, cluster: {server: "https://$net.0.1:6443", certificate-authority: "$home/pki/ca.crt"}}]
users: [{name: $user, user: {token: "$token"}}]
contexts: [{name: dev, context: {cluster: dev, user: $user}}]
current-context: dev
YAML
    done
  )
}

encryption() {
  (umask 077; cat >etc/encryption.yaml) <<YAML
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - secretbox: {keys: [{name: first, secret: "$(head -c 32 /dev/urandom | base64)"}]}
      - identity: {}
YAML
}

# As a careful operator has it: who did what, and no bodies.
audit() {
  cat >etc/audit-policy.yaml <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, userGroups: ["system:nodes"]}
  - {level: None, users: ["system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", "system:apiserver"]}
  - {level: Metadata}
YAML
}

# @N@ is a node's letter, @I@ its number.
nodes_alike() {
  cat >etc/containerd.toml <<TOML
version = 2
root = "$home/node-@N@/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$home/node-@N@/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$home/node-@N@/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Not every root may raise a limit.
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  containerd.snapshotter = "overlayfs"
  containerd.runtimes.runc.runtime_type = "io.containerd.runc.v2"
  cni.bin_dir = "/usr/lib/cni"
  cni.conf_dir = "$home/node-@N@/cni"
TOML
  # Addresses of pods are not masked: a server sees which pod a session is of.
  cat >etc/pods.conflist <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$net.@I@.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  # No chains or resolver of the machine's own; a crashed container is tried again soon.
  cat >etc/kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $net.0.1@I@
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$home/pki/ca.crt"}}
authorization: {mode: Webhook}
tlsCertFile: $home/pki/kubelet-@N@.crt
tlsPrivateKeyFile: $home/pki/kubelet-@N@.key
containerRuntimeEndpoint: "unix://$home/node-@N@/c.sock"
cgroupDriver: cgroupfs
cgroupRoot: /rekeyd-$id-@N@
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
resolvConf: ""
podLogsDir: $home/node-@N@/log
imageGCHighThresholdPercent: 100
serializeImagePulls: false
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
syncFrequency: 1s
maxPods: 250
registerWithTaints: []
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
YAML
  cat >etc/proxy.yaml <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: node-@N@
clientConnection: {kubeconfig: "$home/etc/proxy.kubeconfig"}
clusterCIDR: $net.0.0/16
detectLocalMode: ClusterCIDR
nodePortAddresses: ["$net.0.0/16"]
healthzBindAddress: "127.0.0.1:10256"
metricsBindAddress: "127.0.0.1:10249"
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
}

# A static shell, which every pod's pause is, too.
pause_image() {
  local tool
  mkdir -p image/bin image/tmp
  cp /bin/busybox image/bin/
  for tool in sh sleep cat echo id ls env hostname true false touch rm; do ln -sf busybox "image/bin/$tool"; done
  chmod 1777 image/tmp
  # Its name comes first: no pod starts without it.
  pack image '{"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "2147483647"]}' images/00-pause.tar \
    localhost/pause:1 localhost/busybox:1
  rm -r image
}
