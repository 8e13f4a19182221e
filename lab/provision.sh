#!/bin/sh
# Makes this machine one of the lab's: lab/provision.sh ROLE [STEP…]   (root; the Vagrantfile runs it)
#   ROLE   router, relay, mailserver, web1, web2 or outside, as in lab/topology.json
#   STEP   network, software, service, traffic; all of them when none is named
# Idempotent. Everything comes from this checkout and from Debian.
set -eu
cd "$(dirname "$0")/.."
checkout=$PWD
role=${1:?ROLE}
shift

say() { printf 'provision: %s: %s\n' "$role" "$*"; }
python() { /usr/bin/python3 "$@"; }
unit() {
    mkdir -p /etc/systemd/system
    cat >"/etc/systemd/system/$1.service"
    systemctl daemon-reload
    systemctl enable --now --quiet "$1"
}

debian() {
    export DEBIAN_FRONTEND=noninteractive
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # shellcheck disable=SC2086 # one word a package
    (apt-get -qq update && apt-get -qq -y --no-install-recommends install $missing) >/tmp/provision.log 2>&1 ||
        { tail -20 /tmp/provision.log; exit 1; }
}

# At every boot, so that a restarted machine is still one of the lab.
network() {
    debian python3 iproute2
    # sendmail waits a minute for a host name without a domain.
    hostname=$role.example
    grep -q "^127.0.1.1 $hostname" /etc/hosts || sed -i "1i127.0.1.1 $hostname $role" /etc/hosts
    hostname "$role"
    echo "$role" >/etc/hostname
    unit egressguard-lab-network <<UNIT
[Unit]
Description=Addresses and routes of the lab's $role
Before=egressguard.service egressguard-milter.service redis-server.service valkey-server.service postfix.service postfix@-.service sendmail.service

[Service]
Type=oneshot
RemainAfterExit=yes
WorkingDirectory=$checkout
ExecStart=/usr/bin/python3 -m lab.machine network $role

[Install]
WantedBy=multi-user.target
UNIT
}

software() {
    case $role in
        router) ours egressguard ;;
        relay) ours egressguard-milter; debian "$(script/exchange-server)"; postfix ;;
        mailserver | web2) postfix ;;
        web1) debian sendmail-bin sendmail-cf m4 ;;
        outside) postfix ;; # for its smtp-sink
    esac
}

# The Debian package when `script/package` has built one for this Debian, otherwise this checkout.
ours() {
    # shellcheck source=/dev/null
    release=$(. /etc/os-release; echo "${VERSION_ID:-none}")
    package=$(find dist -maxdepth 1 -name "$1_*~deb${release}_$(dpkg --print-architecture).deb" 2>/dev/null | sort -V | tail -n 1)
    if [ -n "$package" ]; then debian "$PWD/$package"; else script/bootstrap runtime; fi
}

postfix() {
    echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
    debian postfix
    for file in main.cf.debian master.cf.dist; do
        [ -e "/etc/postfix/${file%.*}" ] || cp "/usr/share/postfix/$file" "/etc/postfix/${file%.*}"
    done
}

service() {
    mkdir -p /etc/egressguard
    case $role in
        router) egressguard_service egressguard egressguard.toml ;;
        relay) exchange_service; egressguard_service egressguard-milter egressguard-milter.toml; postfix_service ;;
        mailserver | web2) postfix_service ;;
        web1) sendmail_service ;;
        outside) sink_service ;;
    esac
}

# The lab's names live at the sink; everything else as `egressguard mta-config` has it.
postfix_service() {
    python -m lab.machine mta "$role" /etc/postfix/main.cf >/tmp/main.cf
    # What is a mailserver's own delivers itself, and sends nothing through the relay.
    [ "$role" != mailserver ] || : >/tmp/main.cf
    grep ' = ' /tmp/main.cf | while read -r line; do postconf -e "$line"; done
    postconf -e "myhostname = $role.example" 'mydestination =' 'alias_maps =' 'smtpd_peername_lookup = no' \
        'smtp_dns_support_level = disabled' 'smtp_host_lookup = native' \
        "transport_maps = $(python -m lab.machine transport "$role")"
    systemctl enable --quiet postfix
    systemctl restart postfix
}

# shellcheck disable=SC2094 # makemap writes mailertable.db
sendmail_service() {
    python -m lab.machine mta web1 /etc/mail/mailertable >/etc/mail/mailertable
    python -m lab.machine mta web1 /etc/mail/sendmail.mc >/etc/mail/egressguard.m4
    # Before the MAILER lines; and no name of the lab is in the DNS.
    grep -q egressguard.m4 /etc/mail/sendmail.mc ||
        sed -i "0,/^MAILER/s//FEATURE(\`nocanonify')dnl\nFEATURE(\`accept_unresolvable_domains')dnl\ninclude(\`\/etc\/mail\/egressguard.m4')dnl\n&/" /etc/mail/sendmail.mc
    makemap hash /etc/mail/mailertable </etc/mail/mailertable
    m4 /etc/mail/sendmail.mc >/etc/mail/sendmail.cf
    sed -i 's/^QUEUE_INTERVAL=.*/QUEUE_INTERVAL="5m"/' /etc/mail/sendmail.conf
    systemctl restart sendmail
}

sink_service() {
    for family in 4:0.0.0.0 '6:[::]'; do
        unit "egressguard-lab-sink${family%%:*}" <<UNIT
[Unit]
Description=The Internet's mail server, IPv${family%%:*}
After=egressguard-lab-network.service

[Service]
ExecStart=/usr/sbin/smtp-sink -${family%%:*} -u postfix ${family#*:}:25 128

[Install]
WantedBy=multi-user.target
UNIT
    done
}

egressguard_service() {
    [ -e "/usr/lib/systemd/system/$1.service" ] || linked "$1"
    python -m lab.machine config "$role" >"/etc/egressguard/$2"
    python -m lab.machine key >/etc/egressguard/exchange.key
    chgrp "$1" /etc/egressguard/exchange.key
    chmod 640 /etc/egressguard/exchange.key
    # Whoever is on the machine may look; asking the kernel needs root.
    printf '#!/bin/sh\nexec sudo /usr/bin/%s "$@"\n' "$1" >"/usr/local/bin/$1"
    chmod 755 "/usr/local/bin/$1"
    [ "$role" != router ] || reaches_exchange
    systemctl enable --quiet "$1"
    systemctl restart "$1"
}

# As the Debian packages install it, with links to this checkout in the place of copies.
linked() {
    ln -sf "$checkout/.venv/bin/$1" "/usr/bin/$1"
    mkdir -p /usr/lib/egressguard
    ln -sfn "$checkout/rules" /usr/lib/egressguard/rules
    ln -sf "$checkout/systemd/load-rules" /usr/lib/egressguard/load-rules
    install -D -m 644 "systemd/$1.sysusers" "/usr/lib/sysusers.d/$1.conf"
    systemd-sysusers "$1.conf"
    install -D -m 644 "systemd/$1.service" "/etc/systemd/system/$1.service"
    systemctl daemon-reload
    [ "$role" != router ] || router_units
}

router_units() {
    install -D -m 644 systemd/egressguard.tmpfiles /usr/lib/tmpfiles.d/egressguard.conf
    systemd-tmpfiles --create egressguard.conf
    install -D -m 644 systemd/nftables.conf /usr/lib/systemd/system/nftables.service.d/egressguard.conf
    ln -sf "$checkout/systemd/network.conf" /usr/lib/egressguard/network.conf
    for network in networking systemd-networkd NetworkManager; do
        mkdir -p "/usr/lib/systemd/system/$network.service.d"
        ln -sf ../../../egressguard/network.conf "/usr/lib/systemd/system/$network.service.d/egressguard.conf"
    done
    unit egressguard-rules <systemd/egressguard-rules.service
    unit egressguard-fallback <systemd/egressguard-fallback.service
}

reaches_exchange() {
    mkdir -p /etc/systemd/system/egressguard.service.d
    printf '[Service]\nIPAddressAllow=%s\n' "$(python -m lab.machine exchange)" \
        >/etc/systemd/system/egressguard.service.d/exchange.conf
    systemctl daemon-reload
}

# Debian 13 has Valkey, Debian 12 has Redis.
# Where router and relay leave messages for each other: on the relay, reachable by the lab's machines alone.
exchange_service() {
    address=$(python -m lab.machine exchange)
    server=$(script/exchange-server)
    server=${server%-server}
    sed -i "s/^bind .*/bind $address/; s/^protected-mode .*/protected-mode no/; s/^save .*/save \"\"/" "/etc/$server/$server.conf"
    systemctl enable --quiet "$server-server"
    systemctl restart "$server-server"
}

traffic() {
    case $role in mailserver | web1 | web2) python -m lab.traffic "$role" ;; esac
}

[ $# -gt 0 ] || set -- network software service traffic
for step in "$@"; do
    say "$step"
    "$step"
done
