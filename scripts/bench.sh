#!/usr/bin/env bash
# All figures and drawings of docs/performance.md that are measured on one machine in one go:
#
#   scripts/bench.sh [DIR] [PART...]
#
# Reports, as JSON and as tables, go into DIR (by default a new one in the temporary directory), drawings into
# docs/performance, and the tables into the page as well: in the place of what is between
# "<!-- bench: NAME... -->" and "<!-- end -->". Parts are memory, embedded, listen, nats,
# stock (Postfix and Dovecot, which needs Debian and root; see scripts/mailserver.sh), peers and parts (the benchmarks of the
# packages); all of them unless some are named. It takes half an hour. Let nothing else run meanwhile.
#
# Settings (environment): RUNS, of which the medians are taken (default 5); SCALE, a percentage of the
# usual number of messages (default 100), for a quick look.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"

readonly RUNS=${RUNS:-5} SCALE=${SCALE:-100}
readonly PLOTS=docs/performance
OUT=${1:-$(mktemp -d)}
shift || true
PARTS=("$@")
[[ ${#PARTS[@]} -gt 0 ]] || PARTS=(memory embedded listen nats stock peers parts)
mkdir -p "$OUT" "$PLOTS"
OUT=$(realpath "$OUT")

# bench NAME MEASURE FLAG... measures, and writes NAME.json and the tables NAME.txt and NAME.md. A measurement that finds
# messages lost or out of order ends the script.
bench() {
  local name=$1
  shift
  echo "== $name: postbus bench $*"
  "$OUT/postbus" bench "$@" --json >"$OUT/$name.json" 2>"$OUT/$name.log" || {
    cat "$OUT/$name.log" >&2
    rm -f "$OUT/$name.json" # or the next call with this DIR would take it for a result
    return 1
  }
  {
    printf '`postbus bench %s`\n\n' "${*/"$CONFIG"/email.yml}"
    "$OUT/postbus" bench show --markdown "$OUT/$name.json" | sed 1,2d
  } >"$OUT/$name.md"
  "$OUT/postbus" bench show "$OUT/$name.json" >"$OUT/$name.txt"
}

# many N prints a number of messages, scaled.
many() { echo $(($1 * SCALE / 100 > 0 ? $1 * SCALE / 100 : 1)); }

CONFIG=email.yml # of the part stock
MAIL=''
at_exit() {
  if [[ -n $MAIL ]]; then
    bash scripts/mailserver.sh stop "$MAIL/mail" || true
    rm -rf "$MAIL"
  fi
}
trap at_exit EXIT

# ---- parts ---------------------------------------------------------------------------------------

memory() {
  local on=(--carrier intraprocess --runs "$RUNS")
  bench memory-latency latency "${on[@]}" --count "$(many 200000)" --plot "$PLOTS/memory-latency.svg"
  bench memory-call call "${on[@]}" --count "$(many 200000)" --plot "$PLOTS/memory-call.svg"
  bench memory-throughput throughput "${on[@]}" --count "$(many 3000000)"
  bench memory-fanout fanout "${on[@]}" --count "$(many 300000)"
  bench memory-idle idle --carrier intraprocess --settle 1s --duration 10s
}

embedded() {
  local on=(--carrier embedded --runs "$RUNS")
  bench embedded-latency latency "${on[@]}" --count "$(many 5000)" --plot "$PLOTS/embedded-latency.svg"
  bench embedded-call call "${on[@]}" --count "$(many 3000)"
  bench embedded-throughput throughput "${on[@]}" --count "$(many 30000)"
  bench embedded-throughput-batch throughput "${on[@]}" --count "$(many 300000)" --no-floor --batch --publishers 4 --in-flight 512
  bench embedded-fanout fanout "${on[@]}" --count "$(many 5000)"
  bench embedded-idle idle --carrier embedded --duration 60s
}

listen() {
  local on=(--carrier listen --runs "$RUNS")
  bench listen-latency latency "${on[@]}" --count "$(many 5000)"
  bench listen-call call "${on[@]}" --count "$(many 3000)"
  bench listen-throughput throughput "${on[@]}" --count "$(many 30000)"
}

nats() {
  local on=(--carrier nats --runs "$RUNS")
  bench nats-latency latency "${on[@]}" --count "$(many 50000)"
  bench nats-call call "${on[@]}" --count "$(many 50000)"
  bench nats-throughput throughput "${on[@]}" --count "$(many 1000000)"
  bench nats-fanout fanout "${on[@]}" --count "$(many 100000)"
  bench nats-idle idle --carrier nats --duration 60s
  on=(--carrier jetstream --runs "$RUNS")
  bench jetstream-latency latency "${on[@]}" --count "$(many 20000)"
  bench jetstream-call call "${on[@]}" --count "$(many 20000)"
  bench jetstream-throughput throughput "${on[@]}" --count "$(many 100000)" --in-flight 256
}

stock() {
  MAIL=$(mktemp -d)
  chmod 755 "$MAIL"
  MAILSERVER_PORT_BASE=${MAILSERVER_PORT_BASE:-auto} bash scripts/mailserver.sh start "$MAIL/mail" </dev/null
  set -a
  # shellcheck disable=SC1090
  . <(bash scripts/mailserver.sh env "$MAIL/mail")
  set +a
  CONFIG=$MAIL/email.yml
  local on=(--carrier config --config "$CONFIG" --runs "$RUNS")
  config "$POSTBUS_TEST_SMTP"
  bench stock-latency-10 latency "${on[@]}" --rate 10 --count "$(many 200)" --warm-up 20 --apart --plot "$PLOTS/stock-latency-10.svg"
  bench stock-latency-100 latency "${on[@]}" --rate 100 --count "$(many 500)" --plot "$PLOTS/stock-latency-100.svg"
  bench stock-latency-100-batch latency "${on[@]}" --rate 100 --count "$(many 500)" --batch
  bench stock-call call "${on[@]}" --count "$(many 200)" --plot "$PLOTS/stock-call.svg"
  bench stock-throughput throughput "${on[@]}" --count "$(many 1500)"
  bench stock-throughput-batch throughput "${on[@]}" --count "$(many 30000)" --no-floor --batch --publishers 4 --in-flight 512
  bench stock-latency-quiet latency "${on[@]}" --runs 1 --rate 0.06 --count "$(many 4)" --warm-up 1 --no-floor
  bench stock-idle idle --carrier config --config "$CONFIG" --duration 120s
  config "$POSTBUS_TEST_LMTP"
  bench stock-lmtp-latency latency "${on[@]}" --rate 100 --count "$(many 500)"
  bench stock-lmtp-throughput throughput "${on[@]}" --count "$(many 1500)"
  config "$POSTBUS_TEST_IMAP/INBOX"
  bench stock-append-latency latency "${on[@]}" --rate 100 --count "$(many 500)"
  bench stock-append-throughput throughput "${on[@]}" --count "$(many 1500)"
  bash scripts/mailserver.sh stop "$MAIL/mail"
  rm -rf "$MAIL"
  MAIL=''
}

# config URL writes the configuration of an account that sends over that server.
config() {
  cat >"$CONFIG" <<END
email:
  user: {url-smtp: "$1", url-imap: "$POSTBUS_TEST_IMAP", username: "$POSTBUS_TEST_USER", password: "$POSTBUS_TEST_PASSWORD"}
  tls: {ca-file: "$POSTBUS_TEST_CA"}
END
}

peers() {
  echo "== peers"
  (cd bench/peers && go run . -runs "$RUNS" -scale "$(awk "BEGIN { print $SCALE / 100 }")") >"$OUT/peers.txt" 2>"$OUT/peers.log" || {
    cat "$OUT/peers.log" >&2
    rm -f "$OUT/peers.txt"
    return 1
  }
}

# parts runs the benchmarks that the packages have of their own.
parts() {
  local package
  for package in transport transport/nats waitset service pubsub intraprocess internal/queue internal/notify; do
    echo "== benchmarks of $package"
    go test "./$package" -run '^$' -bench . -benchmem -benchtime "$(many 100)ms" -count "$RUNS" >"$OUT/parts.log"
    medians <"$OUT/parts.log" >"$OUT/parts-${package//\//-}.md"
  done
}

# medians makes a table of what go test -bench prints.
medians() {
  awk '
    /^Benchmark/ {
      name = $1; sub(/^Benchmark/, "", name); sub(/-[0-9]+$/, "", name)
      if (!(name in seen)) { seen[name] = 1; names[++n] = name }
      for (i = 3; i < NF; i += 2) {
        unit = $(i + 1)
        if (!((name, unit) in count)) units[name] = units[name] " " unit
        values[name, unit, ++count[name, unit]] = $i
      }
    }
    function median(name, unit,   c, i, j, v, t) {
      c = count[name, unit]
      for (i = 1; i <= c; i++) v[i] = values[name, unit, i] + 0
      for (i = 2; i <= c; i++) for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
      return (v[int((c + 1) / 2)] + v[int(c / 2) + 1]) / 2
    }
    END {
      print "| benchmark | medians |\n|---|---|"
      for (k = 1; k <= n; k++) {
        line = ""
        m = split(units[names[k]], u, " ")
        for (i = 1; i <= m; i++) line = line (i > 1 ? ", " : "") sprintf("%.4g", median(names[k], u[i])) " " u[i]
        print "| " names[k] " | " line " |"
      }
    }'
}

# fill puts what was measured into the page. What was not is left as it is.
fill() {
  awk -v out="$OUT" '
    function content(name,   file, line, text, fence) {
      file = out "/" name
      fence = name ~ /\.md$/ ? "" : "```\n"
      text = fence
      while ((getline line < file) > 0) text = text line "\n"
      close(file)
      return text fence
    }
    function there(name,   line, got) { got = (getline line < (out "/" name)); close(out "/" name); return got > 0 }
    /^<!-- bench: .* -->$/ {
      print
      all = 1
      for (i = 3; i < NF; i++) all = all && there($i)
      if (all) { for (i = 3; i < NF; i++) printf "%s%s", (i > 3 ? "\n" : ""), content($i); skip = 1 }
      next
    }
    /^<!-- end -->$/ { skip = 0 }
    !skip { print }' docs/performance.md >"$OUT/performance.md"
  cat "$OUT/performance.md" >docs/performance.md
}

# ---- the list ------------------------------------------------------------------------------------

go build -o "$OUT/postbus" ./cmd/postbus
for part in "${PARTS[@]}"; do
  case $part in
    memory | embedded | listen | nats | stock | peers | parts) "$part" ;;
    *)
      echo "bench: there is no part $part" >&2
      exit 2
      ;;
  esac
done
go run ./internal/bench/targets "$OUT" >"$OUT/targets.md"
cat "$OUT/targets.md"
fill
printf 'bench: done in %d min; everything is in %s\n' $((SECONDS / 60)) "$OUT"
