//! The table of keys.

/// How a key's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
    /// Repeatable flag; a list in the file.
    List,
    /// Repeatable `name=value`; an object in the file.
    Map,
    /// Repeatable `base=...,size=...`; a list of objects in the file.
    Pools,
    /// Repeatable `driver=name=value`; an object of objects in the file.
    NetworkOptions,
    /// Of keys that are refused whatever they hold.
    Any,
}

impl Kind {
    /// Whether a flag may be given again for more.
    pub(super) fn repeats(self) -> bool {
        matches!(
            self,
            Self::List | Self::Map | Self::Pools | Self::NetworkOptions
        )
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Built {
    Yes,
    /// These values say what happens anyway; others are refused with the reason.
    Only(&'static [&'static str], &'static str),
    No(&'static str),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) flag: &'static str,
    pub(super) short: Option<&'static str>,
    /// Where the file's name differs from the flag's.
    pub(super) file: Option<&'static str>,
    pub(super) kind: Kind,
    pub(super) built: Built,
    pub(super) help: &'static str,
}

impl Key {
    pub(super) fn in_file(&self) -> &'static str {
        self.file.unwrap_or(self.flag)
    }
}

const fn yes(flag: &'static str, kind: Kind, help: &'static str) -> Key {
    Key {
        flag,
        short: None,
        file: None,
        kind,
        built: Built::Yes,
        help,
    }
}

const fn short(flag: &'static str, short: &'static str, kind: Kind, help: &'static str) -> Key {
    Key {
        flag,
        short: Some(short),
        file: None,
        kind,
        built: Built::Yes,
        help,
    }
}

const fn named(flag: &'static str, file: &'static str, kind: Kind, help: &'static str) -> Key {
    Key {
        flag,
        short: None,
        file: Some(file),
        kind,
        built: Built::Yes,
        help,
    }
}

const fn only(
    flag: &'static str,
    kind: Kind,
    values: &'static [&'static str],
    why: &'static str,
) -> Key {
    Key {
        flag,
        short: None,
        file: None,
        kind,
        built: Built::Only(values, why),
        help: "",
    }
}

const fn no(flag: &'static str, kind: Kind) -> Key {
    Key {
        flag,
        short: None,
        file: None,
        kind,
        built: Built::No("is not built yet"),
        help: "",
    }
}

const fn no_as(flag: &'static str, file: &'static str, kind: Kind) -> Key {
    Key {
        flag,
        short: None,
        file: Some(file),
        kind,
        built: Built::No("is not built yet"),
        help: "",
    }
}

const TABLE: &str = "the engine's own nftables table is always kept: only true";

/// dockerd's flags and the keys of daemon.json.
pub(super) const KEYS: &[Key] = &[
    Key {
        flag: "host",
        short: Some("H"),
        file: Some("hosts"),
        kind: Kind::List,
        built: Built::Yes,
        help: "Where to serve: unix:///path, tcp://host:port or fd:// (default unix:///run/plimsoll.sock)",
    },
    yes(
        "data-root",
        Kind::Text,
        "What must last (default /var/lib/plimsoll)",
    ),
    yes(
        "exec-root",
        Kind::Text,
        "What lasts until the next boot (default /run/plimsoll)",
    ),
    short(
        "pidfile",
        "p",
        Kind::Text,
        "Default <exec-root>/plimsoll.pid",
    ),
    // never a key of the file: a file does not name itself
    Key {
        flag: "config-file",
        short: None,
        file: Some(""),
        kind: Kind::Text,
        built: Built::Yes,
        help: "Default /etc/plimsoll/daemon.json",
    },
    short(
        "debug",
        "D",
        Kind::Bool,
        "As --log-level debug; changed by SIGHUP",
    ),
    short(
        "log-level",
        "l",
        Kind::Text,
        "debug, info, warn, error or fatal; changed by SIGHUP",
    ),
    short(
        "group",
        "G",
        Kind::Text,
        "Group that may use the unix sockets (default docker, where there is one)",
    ),
    yes(
        "tlsverify",
        Kind::Bool,
        "Clients of TCP must show a certificate of --tlscacert",
    ),
    yes(
        "tls",
        Kind::Bool,
        "TLS on TCP, also without certificates of clients (loopback only)",
    ),
    yes(
        "tlscacert",
        Kind::Text,
        "Authority of the clients' certificates, PEM; read anew at SIGHUP",
    ),
    yes(
        "tlscert",
        Kind::Text,
        "Certificate shown to clients, PEM; read anew at SIGHUP",
    ),
    yes("tlskey", Kind::Text, "Its key, PEM; read anew at SIGHUP"),
    named(
        "authorization-plugin",
        "authorization-plugins",
        Kind::List,
        "Plugin that is asked about each request; changed by SIGHUP",
    ),
    named(
        "cdi-spec-dir",
        "cdi-spec-dirs",
        Kind::List,
        "Directory with files of the Container Device Interface (default /etc/cdi, /var/run/cdi)",
    ),
    yes(
        "audit-log",
        Kind::Text,
        "File for a line on each change: who, what, how it ended; opened anew at SIGHUP",
    ),
    named(
        "label",
        "labels",
        Kind::List,
        "Label of the engine, shown by info",
    ),
    yes(
        "log-driver",
        Kind::Text,
        "json-file, local, syslog, journald, fluentd, gelf or none, where a container does not say",
    ),
    named(
        "log-opt",
        "log-opts",
        Kind::Map,
        "Options of that driver: max-size=10m",
    ),
    named(
        "exec-opt",
        "exec-opts",
        Kind::List,
        "native.cgroupdriver=cgroupfs or systemd: who makes the control groups",
    ),
    named(
        "default-ulimit",
        "default-ulimits",
        Kind::Map,
        "Where a container does not say",
    ),
    // ours, not dockerd's
    yes(
        "carry-anyway",
        Kind::Bool,
        "Start although plimsoll doctor forbids this host",
    ),
    yes(
        "default-shm-size",
        Kind::Text,
        "Where a container does not say (default 64m)",
    ),
    yes(
        "default-ipc-mode",
        Kind::Text,
        "private or shareable, where a container does not say",
    ),
    yes(
        "default-cgroupns-mode",
        Kind::Text,
        "private or host, where a container does not say",
    ),
    yes(
        "init",
        Kind::Bool,
        "Run an init in containers that do not say",
    ),
    yes(
        "restart-unhealthy",
        Kind::Bool,
        "Restart containers that become unhealthy, where their label does not say",
    ),
    yes(
        "no-new-privileges",
        Kind::Bool,
        "For containers that do not say",
    ),
    Key {
        flag: "bridge",
        short: Some("b"),
        file: None,
        kind: Kind::Text,
        built: Built::Yes,
        help: "Interface of the default network (default plimsoll0); none: there is none",
    },
    only("iptables", Kind::Bool, &["true"], TABLE),
    only("ip6tables", Kind::Bool, &["true"], TABLE),
    yes(
        "ip-forward",
        Kind::Bool,
        "Have the host forward packets (default true)",
    ),
    yes(
        "ip-masq",
        Kind::Bool,
        "Members of the default network leave with the host's address (default true)",
    ),
    yes("ipv6", Kind::Bool, "The default network has IPv6 too"),
    yes(
        "icc",
        Kind::Bool,
        "Members of the default network reach each other (default true)",
    ),
    yes(
        "ip",
        Kind::Text,
        "Address of the host where the default network's ports are published that name none",
    ),
    yes(
        "publish-policy",
        Kind::Text,
        "Whose rules decide on what comes to published ports: the host's for what it forwards (default), or for input",
    ),
    yes("mtu", Kind::Text, "Of the default network"),
    yes(
        "bip",
        Kind::Text,
        "The host's address in the default network, as in 10.9.0.1/22",
    ),
    yes("bip6", Kind::Text, "As bip, of IPv6"),
    yes(
        "fixed-cidr",
        Kind::Text,
        "What the default network gives to containers",
    ),
    yes("fixed-cidr-v6", Kind::Text, "As fixed-cidr, of IPv6"),
    yes(
        "default-gateway",
        Kind::Text,
        "Where the default network leads, if not to the host",
    ),
    yes(
        "default-gateway-v6",
        Kind::Text,
        "As default-gateway, of IPv6",
    ),
    named(
        "default-address-pool",
        "default-address-pools",
        Kind::Pools,
        "Where subnets come from: base=10.64.0.0/12,size=24",
    ),
    named(
        "default-network-opt",
        "default-network-opts",
        Kind::NetworkOptions,
        "Options of new networks: bridge=com.docker.network.driver.mtu=1400",
    ),
    yes(
        "dns",
        Kind::List,
        "Name servers of containers that name none",
    ),
    named(
        "dns-opt",
        "dns-opts",
        Kind::List,
        "Options of resolv.conf of containers that name none",
    ),
    yes(
        "dns-search",
        Kind::List,
        "Domains that names are looked for in, of containers that name none",
    ),
    named(
        "host-gateway-ip",
        "host-gateway-ips",
        Kind::List,
        "What host-gateway of --add-host means (default: the host's address in the default network)",
    ),
    only(
        "allow-direct-routing",
        Kind::Bool,
        &["false"],
        "is an option of a network (gateway mode nat-unprotected or routed): only false",
    ),
    named(
        "registry-mirror",
        "registry-mirrors",
        Kind::List,
        "Where images are asked for first: https://mirror, or registry=https://mirror of any registry",
    ),
    named(
        "insecure-registry",
        "insecure-registries",
        Kind::List,
        "Registries without TLS or with a certificate of nobody's: host[:port] or a network",
    ),
    only(
        "userland-proxy",
        Kind::Bool,
        &["false"],
        "no proxy is needed for a published port: only false",
    ),
    only(
        "live-restore",
        Kind::Bool,
        &["true"],
        "containers always survive the engine: only true",
    ),
    only(
        "experimental",
        Kind::Bool,
        &["false"],
        "there are no experimental features: only false",
    ),
    only(
        "selinux-enabled",
        Kind::Bool,
        &["false"],
        "is not built yet: only false",
    ),
    only(
        "raw-logs",
        Kind::Bool,
        &["true"],
        "logs never carry colours: only true",
    ),
    only(
        "log-format",
        Kind::Text,
        &["text"],
        "is not built yet: only text",
    ),
    Key {
        flag: "storage-driver",
        short: Some("s"),
        file: None,
        kind: Kind::Text,
        built: Built::No("is chosen by probing the data root; leave it out"),
        help: "",
    },
    Key {
        flag: "shutdown-timeout",
        short: None,
        file: None,
        kind: Kind::Text,
        built: Built::No("containers live on when the engine ends; leave it out"),
        help: "",
    },
    Key {
        flag: "containerd",
        short: None,
        file: None,
        kind: Kind::Text,
        built: Built::No("no containerd is used; leave it out"),
        help: "",
    },
    no_as("add-runtime", "runtimes", Kind::Any),
    no_as(
        "allow-nondistributable-artifacts",
        "allow-nondistributable-artifacts",
        Kind::Any,
    ),
    no("api-cors-header", Kind::Text),
    no("cgroup-parent", Kind::Text),
    no("containerd-namespace", Kind::Text),
    no("containerd-plugins-namespace", Kind::Text),
    no("cpu-rt-period", Kind::Text),
    no("cpu-rt-runtime", Kind::Text),
    no("cri-containerd", Kind::Bool),
    no("default-runtime", Kind::Text),
    no_as("feature", "features", Kind::Any),
    no("firewall-backend", Kind::Text),
    no("http-proxy", Kind::Text),
    no("https-proxy", Kind::Text),
    no("init-path", Kind::Text),
    no("ip-forward-no-drop", Kind::Bool),
    no("max-concurrent-downloads", Kind::Text),
    no("max-concurrent-uploads", Kind::Text),
    no("max-download-attempts", Kind::Text),
    no("metrics-addr", Kind::Text),
    no("network-control-plane-mtu", Kind::Text),
    no("no-proxy", Kind::Text),
    no_as("node-generic-resource", "node-generic-resources", Kind::Any),
    no("oom-score-adjust", Kind::Text),
    no("rootless", Kind::Bool),
    no("seccomp-profile", Kind::Text),
    no_as("storage-opt", "storage-opts", Kind::Any),
    no("swarm-default-advertise-addr", Kind::Text),
    no("userland-proxy-path", Kind::Text),
    no("userns-remap", Kind::Text),
    // keys of the file alone
    no_as("", "builder", Kind::Any),
    no_as("", "proxies", Kind::Any),
    no_as("", "containerd-snapshotter", Kind::Any),
];
