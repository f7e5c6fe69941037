#!/usr/bin/env bash
# A real mail server, Postfix and Dovecot, on loopback for the integration tests.
#
#   scripts/mailserver.sh start   [smtp|imap] [DIR]   install what is missing, configure, start
#   scripts/mailserver.sh stop    [smtp|imap] [DIR]   stop; the mail stays
#   scripts/mailserver.sh restart [smtp|imap] [DIR]
#   scripts/mailserver.sh status  [DIR]               which servers run; exit code 3 unless both do
#   scripts/mailserver.sh env     [DIR]               the variables below, one NAME=value a line
#
# Without smtp (Postfix) or imap (Dovecot) a command means both. Everything is kept in DIR, by default
# $POSTBUS_TEST_MAILSERVER_DIR or postbus-mailserver in the temporary directory; stop, then delete it
# to forget everything. Needs Debian 12 and root. Starting twice is fine, and so is starting after a
# crash. The script only ends processes whose pid files are in DIR.
#
# The server is closed: it listens on 127.0.0.1, asks no DNS, takes mail for its own accounts only
# and relays nothing, not even for an authenticated user. Messages may have 50 MB. Ports 587 and 465
# want AUTH (and 587 STARTTLS first), port 25 takes mail as from a stranger, in plain text. Mail for
# bounce@localhost.test is accepted, then returned to its sender with a delivery status notification; that
# for listener@localhost.test is delivered by LMTP to the socket DIR/listener/lmtp.sock, where a test may listen.
#
# Outages: stopping a server ends its open connections at once. Postfix asks Dovecot about passwords,
# so while imap is stopped AUTH fails with 454, and mail taken on port 25 waits in the queue (it is
# tried again after five to ten seconds).
#
# Settings (environment of start, remembered in DIR):
#   MAILSERVER_PORT_BASE   added to every port number, default 10000: 10025, 10465, 10587, 10143,
#                          10993, 10024; "auto" takes the first thousand from there that is free
#   MAILSERVER_USERS       more accounts than robot and peer, blank-separated; NAME@localhost.test
#                          has the password NAME-secret
#   MAILSERVER_SHARED      1: accounts can share folders by access control lists (RFC 4314). Stock
#                          Debian has this off
#
# Variables printed by env, for the tests behind the build tag "integration":
#   POSTBUS_TEST_SMTP            smtps://localhost:10465              submission, implicit TLS
#   POSTBUS_TEST_SUBMISSION      smtp+starttls://localhost:10587      submission, STARTTLS required
#   POSTBUS_TEST_SMTP_INSECURE   smtp+insecure://localhost:10025      plain text, AUTH optional
#   POSTBUS_TEST_IMAP            imaps://localhost:10993
#   POSTBUS_TEST_IMAP_STARTTLS   imap+starttls://localhost:10143
#   POSTBUS_TEST_IMAP_INSECURE   imap+insecure://localhost:10143      the same port, plain text
#   POSTBUS_TEST_LMTP            lmtp+unix://DIR/lmtp.sock            delivery without a queue
#   POSTBUS_TEST_LMTP_TCP        lmtp+insecure://localhost:10024      the same over TCP
#   POSTBUS_TEST_CA              DIR/tls/ca.crt                       trust this authority
#   POSTBUS_TEST_USER, POSTBUS_TEST_PASSWORD                          robot@localhost.test
#   POSTBUS_TEST_PEER, POSTBUS_TEST_PEER_PASSWORD                     peer@localhost.test
#   POSTBUS_TEST_BOUNCE          bounce@localhost.test                accepted, then returned
#   POSTBUS_TEST_LISTENER        listener@localhost.test              delivered to the socket
#   POSTBUS_TEST_LISTENER_SOCKET DIR/listener/lmtp.sock
#   POSTBUS_TEST_SHARED          shared.robot                         with MAILSERVER_SHARED: what peer may see of robot
#   POSTBUS_TEST_MAILSERVER      this script, and                     for tests of outages:
#   POSTBUS_TEST_MAILSERVER_DIR  its DIR                              "$POSTBUS_TEST_MAILSERVER" stop imap
#
# In a shell:  set -a; . <(scripts/mailserver.sh env); set +a

set -euo pipefail
umask 022

readonly DOMAIN=localhost.test
readonly MARK=.postbus-mailserver # in DIR; says that the directory is ours
readonly WAIT_SECONDS=15          # for a server to come up, or to end

# ---- messages ------------------------------------------------------------------------------------

say() { printf 'mailserver: %s\n' "$*"; }
die() {
  printf 'mailserver: %s\n' "$*" >&2
  exit 1
}
usage() {
  sed -n '4,8s/^# *//p' "$0" >&2
  exit 2
}

# ---- arguments and settings ----------------------------------------------------------------------

# parse_arguments sets COMMAND, SERVERS and the paths below DIR.
parse_arguments() {
  COMMAND=${1:-}
  [[ $COMMAND =~ ^(start|stop|restart|status|env)$ ]] || usage
  shift
  SERVERS=(imap smtp) # Postfix delivers to Dovecot, so Dovecot comes first
  if [[ ${1:-} == smtp || ${1:-} == imap ]]; then
    [[ $COMMAND != status && $COMMAND != env ]] || usage
    SERVERS=("$1")
    shift
  fi
  [[ $# -le 1 ]] || usage
  DIR=$(realpath -m -- "${1:-${POSTBUS_TEST_MAILSERVER_DIR:-${TMPDIR:-/tmp}/postbus-mailserver}}")
  # Both servers split path names at blanks, and the name of a socket has a hundred-odd bytes.
  [[ $DIR =~ ^/[A-Za-z0-9/._+-]+$ ]] || die "the directory's name may only hold letters, digits and / . _ + -: $DIR"
  [[ ${#DIR} -le 70 ]] || die "the directory's name is too long for sockets in it (70 bytes): $DIR"
  QUEUE=$DIR/queue
  POSTFIX_CONFIG=$DIR/postfix
  DOVECOT_CONFIG=$DIR/dovecot/dovecot.conf
}

# load_settings sets PORT_BASE, USERS and SHARED from the environment, DIR or the defaults, and the ports.
load_settings() {
  local saved_base='' saved_users='' saved_shared=''
  if [[ -f $DIR/settings ]]; then
    { read -r saved_base && read -r saved_users && read -r saved_shared; } <"$DIR/settings" || true
  fi
  SHARED=${MAILSERVER_SHARED-$saved_shared}
  local base=${MAILSERVER_PORT_BASE:-${saved_base:-10000}}
  if [[ $base == auto ]]; then
    base=${saved_base:-$(free_port_base)}
  fi
  [[ $base =~ ^(0|[1-9][0-9]{0,4})$ && $base -le 64000 ]] || die "MAILSERVER_PORT_BASE must be a number up to 64000 or auto, not $base"
  PORT_BASE=$base
  set_ports "$base"

  local user
  USERS=(robot peer)
  for user in ${MAILSERVER_USERS-$saved_users}; do
    [[ $user =~ ^[a-z0-9][a-z0-9._-]*$ ]] || die "MAILSERVER_USERS: not a plain account name: $user"
    [[ $user == bounce ]] && die "MAILSERVER_USERS: bounce is taken by the address that returns its mail"
    [[ $user == listener ]] && die "MAILSERVER_USERS: listener is taken by the address whose mail goes to a socket"
    [[ " ${USERS[*]} " == *" $user "* ]] || USERS+=("$user")
  done
}

save_settings() { printf '%s\n%s\n%s\n' "$PORT_BASE" "${USERS[*]:2}" "$SHARED" >"$DIR/settings"; }

set_ports() {
  SMTP=$(($1 + 25)) SUBMISSION=$(($1 + 587)) SMTPS=$(($1 + 465))
  IMAP=$(($1 + 143)) IMAPS=$(($1 + 993)) LMTP=$(($1 + 24))
}

# ports_of prints the ports of the server smtp or imap.
ports_of() {
  case $1 in
    smtp) echo "$SMTP $SUBMISSION $SMTPS" ;;
    imap) echo "$IMAP $IMAPS $LMTP" ;;
  esac
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port_base prints the first of 10000, 11000, ... whose ports are all free. It stays below the
# ports that Linux gives to outgoing connections.
free_port_base() {
  local base port
  for ((base = 10000; base < 32000; base += 1000)); do
    set_ports "$base"
    for port in $(ports_of smtp) $(ports_of imap); do
      if port_open "$port"; then continue 2; fi
    done
    echo "$base"
    return
  done
  die "no thousand of ports between 10000 and 32000 is free"
}

# ---- preparation ---------------------------------------------------------------------------------

require_root() { [[ $EUID -eq 0 ]] || die "must run as root: Postfix and Dovecot change users themselves"; }

# claim_directory creates DIR, or makes sure that it is one of ours.
claim_directory() {
  if [[ -e $DIR && ! -e $DIR/$MARK ]]; then
    [[ -d $DIR && -z $(ls -A "$DIR") ]] || die "$DIR exists and is not a directory of this script"
  fi
  # The servers' own users (postfix, dovenull, mail) have to get there.
  local parent=$DIR
  while [[ $parent != / ]]; do
    parent=$(dirname "$parent")
    [[ ! -e $parent || $(stat -c %A "$parent") == *[xt] ]] || die "users other than root cannot enter $parent: choose another directory or chmod o+x it"
  done
  mkdir -p "$DIR"
  [[ -O $DIR ]] || die "$DIR belongs to another user"
  chmod 755 "$DIR"
  touch "$DIR/$MARK"
}

# lock keeps two calls for the same DIR from meeting. Servers are started with the lock closed (9>&-).
lock() {
  exec 9>>"$DIR/lock"
  flock -w 60 9 || die "another call has been working on $DIR for a minute"
}

# install_packages installs what is missing.
install_packages() {
  local package missing=()
  for package in postfix dovecot-imapd dovecot-lmtpd openssl; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  if [[ ${#missing[@]} -gt 0 ]]; then
    command -v apt-get >/dev/null || die "no apt-get here; install: ${missing[*]}"
    say "installing ${missing[*]}"
    if ! apt_install "${missing[@]}" >"$DIR/log/apt.log" 2>&1; then
      tail -n 15 "$DIR/log/apt.log" >&2
      die "apt-get failed; all it said is in $DIR/log/apt.log"
    fi
  fi
  [[ $(dovecot --version) == 2.3.* ]] || die "this is written for Dovecot 2.3 (Debian 12), not $(dovecot --version)"
}

# apt_install brings the packages, but keeps Debian from starting the servers, now or at the next boot.
apt_install() (
  export DEBIAN_FRONTEND=noninteractive
  local policy=/usr/sbin/policy-rc.d package
  if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" # "do not start services"
    chmod 755 "$policy"
  fi
  apt-get -o Acquire::Retries=3 update || exit
  echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections || exit
  apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@" </dev/null || exit
  command -v systemctl >/dev/null || exit 0
  for package in "$@"; do
    case $package in
      postfix) systemctl disable postfix ;;
      dovecot-imapd) systemctl disable dovecot dovecot.socket ;;
    esac
  done || true
)

# make_directories creates the tree, with the owners and modes that Postfix wants to see in its queue.
make_directories() {
  local name
  mkdir -p "$DIR"/{tls,postfix,dovecot,data,mail,log,run,state,listener} "$QUEUE"
  chmod 755 "$DIR"/{tls,postfix,dovecot,log,run,state,listener} "$QUEUE"
  for name in active bounce corrupt defer deferred flush hold incoming private saved trace; do
    mkdir -p "$QUEUE/$name"
    chown postfix:root "$QUEUE/$name"
    chmod 700 "$QUEUE/$name"
  done
  mkdir -p "$QUEUE"/{pid,maildrop,public}
  chown root:root "$QUEUE" "$QUEUE/pid"
  chown postfix:postdrop "$QUEUE"/{maildrop,public}
  chmod 755 "$QUEUE/pid"
  chmod 730 "$QUEUE/maildrop"
  chmod 710 "$QUEUE/public"
  chown postfix "$DIR/data"
  chown mail:mail "$DIR/mail"
}

# make_certificates creates the authority and a certificate for localhost, anew in their last week.
make_certificates() (
  cd "$DIR/tls"
  openssl x509 -checkend 604800 -noout -in server.crt >/dev/null 2>&1 && exit
  rm -f -- *
  local options=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
  {
    openssl req -x509 "${options[@]}" -days 825 -subj "/CN=postbus test authority" -keyout ca.key -out ca.crt \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    openssl req "${options[@]}" -subj "/CN=mail.$DOMAIN" -keyout server.key -out server.csr
    printf '%s\n' "subjectAltName=DNS:localhost,DNS:mail.$DOMAIN,IP:127.0.0.1" \
      basicConstraints=CA:FALSE extendedKeyUsage=serverAuth >server.ext
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 -extfile server.ext -out server.new
  } >openssl.log 2>&1 || {
    cat openssl.log >&2
    die "openssl could not make the certificates"
  }
  chmod 600 ca.key server.key
  mv server.new server.crt
)

# ---- configuration -------------------------------------------------------------------------------

# put writes standard input to the file $2 and, if that changes it, puts $1 (smtp or imap) on CHANGED.
put() {
  cat >"$2.new"
  if cmp -s "$2.new" "$2"; then
    rm "$2.new"
  else
    mv "$2.new" "$2"
    CHANGED+=" $1"
  fi
}

write_configuration() {
  CHANGED=
  put imap "$DIR/dovecot/users" < <(passwd_file)
  put imap "$DOVECOT_CONFIG" < <(dovecot_conf)
  put smtp "$POSTFIX_CONFIG/main.cf" < <(main_cf)
  put smtp "$POSTFIX_CONFIG/master.cf" < <(master_cf)
}

passwd_file() {
  local user
  for user in "${USERS[@]}"; do echo "$user@$DOMAIN:{PLAIN}$user-secret"; done
}

# address_list prints the known addresses as entries of an inline Postfix table. Dovecot does not know
# bounce, so its mail comes back as it would from any server behind a queue, nor listener.
address_list() {
  local user
  for user in bounce listener "${USERS[@]}"; do printf '{%s@%s = ok} ' "$user" "$DOMAIN"; done
}

dovecot_conf() {
  cat <<END
base_dir = $DIR/run
state_dir = $DIR/state
log_path = $DIR/log/dovecot.log
listen = 127.0.0.1
hostname = mail.$DOMAIN
protocols = imap lmtp

ssl = yes
ssl_cert = <$DIR/tls/server.crt
ssl_key = <$DIR/tls/server.key
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0

passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%u $DIR/dovecot/users
}
userdb {
  driver = static
  args = uid=mail gid=mail home=$DIR/mail/%n
}
first_valid_uid = 1
mail_location = maildir:~/Maildir
namespace inbox {
  inbox = yes
}

service imap-login {
  inet_listener imap {
    port = $IMAP
  }
  inet_listener imaps {
    port = $IMAPS
    ssl = yes
  }
  service_count = 0
  process_min_avail = 2
}
service imap {
  process_limit = 512
}
protocol imap {
  mail_max_userip_connections = 200
}
service lmtp {
  unix_listener $QUEUE/private/dovecot-lmtp {
    mode = 0600
    user = postfix
  }
  unix_listener $DIR/lmtp.sock {
    mode = 0666
  }
  inet_listener lmtp {
    port = $LMTP
  }
  process_min_avail = 2
}
# without this a wrong password slows down every later login from the same address
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  unix_listener $QUEUE/private/auth {
    mode = 0600
    user = postfix
  }
}
END
  sharing
}

# sharing lets accounts share folders.
sharing() {
  [[ -n $SHARED ]] || return 0
  cat <<END
mail_plugins = acl
protocol imap {
  mail_plugins = acl imap_acl
}
plugin {
  acl = vfile
  acl_shared_dict = file:$DIR/mail/shared
}
namespace shared {
  type = shared
  prefix = shared.%%n.
  separator = .
  location = maildir:%%h/Maildir
  subscriptions = no
  list = children
}
END
}

main_cf() {
  cat <<END
compatibility_level = 3.6
queue_directory = $QUEUE
data_directory = $DIR/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = $DIR/log/postfix.log
maillog_file_prefixes = $DIR

inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.$DOMAIN
mydomain = $DOMAIN
myorigin = $DOMAIN
mynetworks = 127.0.0.0/8
append_dot_mydomain = no
biff = no
notify_classes =

# our own accounts, delivered to Dovecot
mydestination =
alias_maps =
alias_database =
virtual_mailbox_domains = $DOMAIN
virtual_mailbox_maps = inline:{ $(address_list)}
virtual_transport = lmtp:unix:private/dovecot-lmtp
transport_maps = inline:{ {listener@$DOMAIN = lmtp:unix:$DIR/listener/lmtp.sock} }
lmtp_destination_recipient_limit = 1000

# nothing else: no DNS, no relaying, no way out
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
relay_domains =
default_transport = error:5.7.1 this test server delivers to its own accounts only
relay_transport = error:5.7.1 this test server delivers to its own accounts only
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = reject_unlisted_recipient, reject_unauth_destination

smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_sasl_security_options = noanonymous
smtpd_tls_cert_file = $DIR/tls/server.crt
smtpd_tls_key_file = $DIR/tls/server.key
smtpd_tls_security_level = may

# the tests set the pace
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
message_size_limit = 52428800
mailbox_size_limit = 0
virtual_mailbox_limit = 0
in_flow_delay = 0
queue_run_delay = 5s
minimal_backoff_time = 5s
maximal_backoff_time = 10s
END
}

master_cf() {
  cat <<END
127.0.0.1:$SMTP inet n - n - - smtpd
127.0.0.1:$SUBMISSION inet n - n - - smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
127.0.0.1:$SMTPS inet n - n - - smtpd
  -o syslog_name=postfix/smtps
  -o smtpd_tls_wrappermode=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
pickup     unix n - n 60 1 pickup
cleanup    unix n - n - 0 cleanup
qmgr       unix n - n 300 1 qmgr
tlsmgr     unix - - n 1000? 1 tlsmgr
rewrite    unix - - n - - trivial-rewrite
bounce     unix - - n - 0 bounce
defer      unix - - n - 0 bounce
trace      unix - - n - 0 bounce
verify     unix - - n - 1 verify
flush      unix n - n 1000? 0 flush
proxymap   unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
showq      unix n - n - - showq
error      unix - - n - - error
retry      unix - - n - - error
discard    unix - - n - - discard
lmtp       unix - - n - - lmtp
anvil      unix - - n - 1 anvil
scache     unix - - n - 1 scache
postlog    unix-dgram n - n - 1 postlogd
END
}

# ---- the two servers -----------------------------------------------------------------------------

name_of() { if [[ $1 == smtp ]]; then echo Postfix; else echo Dovecot; fi; }
log_of() { if [[ $1 == smtp ]]; then echo "$DIR/log/postfix.log"; else echo "$DIR/log/dovecot.log"; fi; }
pid_file_of() { if [[ $1 == smtp ]]; then echo "$QUEUE/pid/master.pid"; else echo "$DIR/run/master.pid"; fi; }

# pid_of prints the server's pid if it runs. A pid file alone proves nothing: after a crash its number
# may be another program's, so the process must also be what we start and work in DIR.
pid_of() {
  local pid
  pid=$(tr -dc 0-9 2>/dev/null <"$(pid_file_of "$1")") || return 1
  [[ -n $pid && -d /proc/$pid ]] || return 1
  case $1 in
    smtp) [[ $(readlink "/proc/$pid/cwd") == "$QUEUE" && $(tr '\0' ' ' <"/proc/$pid/cmdline") == */master\ * ]] || return 1 ;;
    imap) [[ $(tr '\0' ' ' <"/proc/$pid/cmdline") == *dovecot\ -c\ "$DOVECOT_CONFIG "* ]] || return 1 ;;
  esac 2>/dev/null
  echo "$pid"
}

# wait_until runs its arguments until they succeed, for WAIT_SECONDS at most.
wait_until() {
  local deadline=$((SECONDS + WAIT_SECONDS))
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

ports_open() {
  local port
  for port in $(ports_of "$1"); do port_open "$port" || return 1; done
}

ports_free() {
  local port
  for port in $(ports_of "$1"); do ! port_open "$port" || return 1; done
}

start_server() {
  local pid port
  if pid=$(pid_of "$1"); then
    if [[ " $CHANGED " != *" $1 "* ]] && ports_open "$1"; then
      say "$(name_of "$1") runs already (pid $pid)"
      return
    fi
    stop_server "$1" # its configuration is another now
  fi
  if [[ -e $(pid_file_of "$1") ]]; then
    say "$(name_of "$1") has left a pid file of an earlier run; removing it"
    rm -f "$(pid_file_of "$1")"
    wait_until ports_free "$1" || true # its children end by themselves, a moment later
  fi
  for port in $(ports_of "$1"); do
    port_open "$port" && die "port $port on 127.0.0.1 is taken; stop its owner or set MAILSERVER_PORT_BASE"
  done
  case $1 in
    smtp) postfix -c "$POSTFIX_CONFIG" start ;;
    imap)
      rm -rf "$DIR/run"/* # clients retry for seconds on a socket that nobody serves any more
      dovecot -c "$DOVECOT_CONFIG"
      ;;
  esac </dev/null >"$DIR/log/start-$1.log" 2>&1 9>&- || start_failed "$1"
  wait_until ports_open "$1" || start_failed "$1"
  pid=$(pid_of "$1") || start_failed "$1"
  say "$(name_of "$1") started (pid $pid)"
}

start_failed() {
  tail -n 10 "$DIR/log/start-$1.log" "$(log_of "$1")" >&2 || true
  die "$(name_of "$1") did not come up; its logs are in $DIR/log"
}

stop_server() {
  local pid
  if ! pid=$(pid_of "$1"); then
    say "$(name_of "$1") does not run"
    return
  fi
  # Dovecot's children would serve open connections for ten seconds more; an outage is to be one at once.
  local children
  mapfile -t children < <(children_of "$pid")
  kill -TERM "$pid" "${children[@]}" 2>/dev/null || true
  if ! wait_until server_gone "$1" "$pid"; then
    [[ $(pid_of "$1") == "$pid" ]] && kill -KILL "$pid"
    wait_until server_gone "$1" "$pid" || die "$(name_of "$1") (pid $pid) does not end"
  fi
  rm -f "$(pid_file_of "$1")"
  say "$(name_of "$1") stopped"
}

children_of() { grep -ls "^PPid:[[:blank:]]*$1\$" /proc/[0-9]*/status | cut -d/ -f3; }

server_gone() { [[ $(pid_of "$1") != "$2" ]] && ports_free "$1"; }

# ---- commands ------------------------------------------------------------------------------------

command_start() {
  local server
  require_root
  claim_directory
  lock
  mkdir -p "$DIR/log"
  load_settings
  install_packages
  make_directories
  make_certificates
  write_configuration
  save_settings
  for server in "${SERVERS[@]}"; do start_server "$server"; done
  say "smtp $SMTP, submission (STARTTLS) $SUBMISSION, smtps $SMTPS, imap $IMAP, imaps $IMAPS, lmtp $LMTP on 127.0.0.1"
  say "accounts ${USERS[*]/%/@$DOMAIN}; variables for the tests: $0 env $DIR"
}

command_stop() {
  local i
  require_root
  if ! known_directory; then
    say "nothing to stop: no server was started in $DIR"
    return
  fi
  lock
  load_saved_settings
  for ((i = ${#SERVERS[@]} - 1; i >= 0; i--)); do stop_server "${SERVERS[i]}"; done
}

command_status() {
  local server pid code=0
  require_root # others do not see where our processes work
  for server in "${SERVERS[@]}"; do
    if pid=$(pid_of "$server"); then
      say "$server: $(name_of "$server") runs (pid $pid)"
    else
      say "$server: $(name_of "$server") does not run"
      code=3
    fi
  done
  exit "$code"
}

command_env() {
  known_directory || die "no server was started in $DIR"
  load_saved_settings
  cat <<END
POSTBUS_TEST_SMTP=smtps://localhost:$SMTPS
POSTBUS_TEST_SUBMISSION=smtp+starttls://localhost:$SUBMISSION
POSTBUS_TEST_SMTP_INSECURE=smtp+insecure://localhost:$SMTP
POSTBUS_TEST_IMAP=imaps://localhost:$IMAPS
POSTBUS_TEST_IMAP_STARTTLS=imap+starttls://localhost:$IMAP
POSTBUS_TEST_IMAP_INSECURE=imap+insecure://localhost:$IMAP
POSTBUS_TEST_LMTP=lmtp+unix://$DIR/lmtp.sock
POSTBUS_TEST_LMTP_TCP=lmtp+insecure://localhost:$LMTP
POSTBUS_TEST_CA=$DIR/tls/ca.crt
POSTBUS_TEST_USER=robot@$DOMAIN
POSTBUS_TEST_PASSWORD=robot-secret
POSTBUS_TEST_PEER=peer@$DOMAIN
POSTBUS_TEST_PEER_PASSWORD=peer-secret
POSTBUS_TEST_BOUNCE=bounce@$DOMAIN
POSTBUS_TEST_LISTENER=listener@$DOMAIN
POSTBUS_TEST_LISTENER_SOCKET=$DIR/listener/lmtp.sock
POSTBUS_TEST_SHARED=${SHARED:+shared.robot}
POSTBUS_TEST_MAILSERVER=$(realpath "$0")
POSTBUS_TEST_MAILSERVER_DIR=$DIR
END
}

known_directory() { [[ -O $DIR && -e $DIR/$MARK && -e $DIR/settings ]]; }

load_saved_settings() {
  unset MAILSERVER_PORT_BASE MAILSERVER_USERS MAILSERVER_SHARED
  load_settings
}

parse_arguments "$@"
case $COMMAND in
  start) command_start ;;
  stop) command_stop ;;
  restart)
    (command_stop)
    command_start
    ;;
  status) command_status ;;
  env) command_env ;;
esac
