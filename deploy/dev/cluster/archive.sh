# shellcheck shell=bash
# Packs a folder as an image archive, as `docker save` writes it. The same folder gives the same archive.

pack() { # FOLDER CONFIG ARCHIVE NAME ...
  local folder=$1 config=$2 archive=$3 parts digest names
  shift 3
  parts=$(mktemp -d)
  tar --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 -C "$folder" -cf "$parts/layer.tar" .
  digest=$(sha256sum "$parts/layer.tar" | cut -d' ' -f1)
  cat >"$parts/config.json" <<JSON
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "config": $config,
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
JSON
  names=$(printf '"%s", ' "$@")
  echo "[{\"Config\": \"config.json\", \"RepoTags\": [${names%, }], \"Layers\": [\"layer.tar\"]}]" >"$parts/manifest.json"
  tar --numeric-owner --owner=0 --group=0 --mtime=@0 -C "$parts" -cf "$archive" config.json layer.tar manifest.json
  rm -r "$parts"
}
