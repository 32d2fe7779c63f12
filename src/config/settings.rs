//! Every flag and variable of the server, as text; [`super::Config`] is what they mean.

use clap::Args;

mod dns;

pub use dns::DnsSettings;

/// The settings, each a flag and an environment variable. An empty variable counts as unset.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Where the page and the sockets are served, `host:port` or `:port` (all interfaces); with
    /// HTTPS, where plain requests are redirected. Unset: :8080, or :80 if RTHOST is set
    #[arg(
        long,
        env,
        global = true,
        value_name = "ADDR",
        default_value = "",
        hide_default_value = true
    )]
    pub http_addr: String,

    /// Where the page and the sockets are served over HTTPS. Unset: :443 if RTHOST or
    /// TLS_CERT is set
    #[arg(
        long,
        env,
        global = true,
        value_name = "ADDR",
        default_value = "",
        hide_default_value = true
    )]
    pub https_addr: String,

    /// File with the certificate for HTTPS and its chain, PEM; read again when it changes
    #[arg(long, env, global = true, value_name = "FILE")]
    pub tls_cert: Option<String>,

    /// File with the certificate's key, PEM
    #[arg(long, env, global = true, value_name = "FILE")]
    pub tls_key: Option<String>,

    /// Where health and metrics are served, or `off`
    #[arg(long, env, global = true, value_name = "ADDR", default_value = super::ADMIN_ADDR)]
    pub admin_addr: String,

    /// Public host names of this server, comma-separated. Certificates for them are ordered from
    /// Let's Encrypt, unless TLS_CERT is set; plain requests are redirected to the first one, at
    /// port 443 unless it names another (`host:8443`). Set, it rules out the embedded broker
    #[arg(long, env, global = true, value_name = "HOSTS")]
    pub rthost: Option<String>,

    /// Host names that requests may use, comma-separated, besides RTHOST, `localhost` and addresses:
    /// `rt.example.com`, `*.example.com`, or `*` for all. Unset: any, but none on loopback and with
    /// the embedded broker, where a page elsewhere could have its own name lead here
    #[arg(long, env, global = true, value_name = "HOSTS")]
    pub hosts: Option<String>,

    /// Who issues certificates: production or staging (of Let's Encrypt), the URL of an ACME
    /// directory, or auto: production, but staging if CERT_DIR would not survive a container
    #[arg(long, env, global = true, value_name = "CA", default_value = super::https::ACME_CA)]
    pub acme_ca: String,

    /// File with a root to trust when asking the CA, PEM, for a CA of one's own
    #[arg(long, env, global = true, value_name = "FILE")]
    pub acme_ca_root: Option<String>,

    /// Whom the CA may write to
    #[arg(long, env, global = true, value_name = "ADDRESS")]
    pub acme_email: Option<String>,

    /// How the CA sees that the hosts are ours: tls-alpn-01 (it asks at port 443), http-01 (at port
    /// 80), dns-01 (by TXT records), or auto: dns-01 if a DNS provider is set, else tls-alpn-01
    #[arg(
        long,
        env,
        global = true,
        value_name = "NAME",
        default_value = super::https::ACME_CHALLENGE
    )]
    pub acme_challenge: String,

    /// Who makes TXT records
    #[command(flatten)]
    pub dns: DnsSettings,

    /// Folder for certificates, kept over restarts. Unset: roomcast in the XDG data folder
    /// (~/.local/share)
    #[arg(long, env, global = true, value_name = "DIR")]
    pub cert_dir: Option<String>,

    /// The Redis to watch: `host:port`, `redis://…`, `rediss://…` (TLS), `unix:/path`, or
    /// `embedded[:port]`, the development broker in this process. Unset: localhost:6379, where the
    /// embedded broker is started if no Redis answers and RTHOST is unset
    #[arg(long, env, global = true, value_name = "ADDR", hide_env_values = true)]
    pub redishost: Option<String>,

    /// User name for Redis' AUTH. Unset: the one in REDISHOST, else Redis' `default` user
    #[arg(long, env, global = true, value_name = "NAME")]
    pub redis_username: Option<String>,

    /// File that holds the user name; it is read at each connect
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_username_file: Option<String>,

    /// Password for Redis' AUTH, taken literally: `=`, `+` and `/` are fine
    #[arg(long, env, global = true, value_name = "PASSWORD", hide_env_values = true)]
    pub redis_password: Option<String>,

    /// File that holds the password; it is read at each connect
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_password_file: Option<String>,

    /// Where to publish and to probe from if REDISHOST is a replica: its master, in the same forms.
    /// Unset: REDISHOST
    #[arg(long, env, global = true, value_name = "ADDR", hide_env_values = true)]
    pub redis_publish_host: Option<String>,

    /// File with the root to trust for a rediss:// Redis, PEM, read at each connect. Unset:
    /// Mozilla's roots and those of SSL_CERT_FILE
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_ca: Option<String>,

    /// File with the client certificate that a rediss:// Redis asks for, PEM, read at each connect
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_cert: Option<String>,

    /// File with the key of REDIS_CERT, PEM
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_key: Option<String>,

    /// Channel patterns to subscribe to, comma-separated, in Redis' glob syntax
    #[arg(long, env, global = true, value_name = "PATTERNS", default_value = super::REDIS_CHANNELS)]
    pub redis_channels: String,

    /// Messages that are kept of each room, up to 10000; 0 keeps none
    #[arg(long, env, global = true, value_name = "COUNT", default_value = super::HISTORY)]
    pub history: String,

    /// How long a message is kept, 1s to 24h
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::HISTORY_TTL)]
    pub history_ttl: String,

    /// What the history of all rooms may take together, e.g. 32MiB; the least recently published
    /// rooms are forgotten first. Unset: 32MiB, or an eighth of the container's memory if less
    #[arg(long, env, global = true, value_name = "SIZE")]
    pub history_bytes: Option<String>,

    /// Folder in which the history outlives a restart: written every 30 s and when the server stops,
    /// read when it starts. Unset: the history begins anew
    #[arg(long, env, global = true, value_name = "DIR")]
    pub state_dir: Option<String>,

    /// Between how many tasks the fan-out is divided, by room, 1 to 64. Unset: the cores
    #[arg(long, env, global = true, value_name = "COUNT")]
    pub lanes: Option<String>,

    /// Folder to serve instead of the built-in page
    #[arg(long, env, global = true, value_name = "DIR")]
    pub assets: Option<String>,

    /// Tell a room's others about each join by the event `hello`: true or false
    #[arg(long, env, global = true, value_name = "BOOL", default_value = super::HELLO)]
    pub hello: String,

    /// A viewer that has not taken its bytes for this long is disconnected, 1s to 19s
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::SLOW_AFTER)]
    pub slow_after: String,

    /// The secret that JWTs are signed with (HS256, HS384, HS512). With it or JWT_PUBLIC_KEY,
    /// nobody watches without a token
    #[arg(long, env, global = true, value_name = "SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,

    /// File that holds the secret
    #[arg(long, env, global = true, value_name = "FILE")]
    pub jwt_secret_file: Option<String>,

    /// The public key for the one that JWTs are signed with, PEM: RSA (RS256, PS256, …), P-256
    /// (ES256), P-384 (ES384) or Ed25519 (EdDSA)
    #[arg(long, env, global = true, value_name = "PEM")]
    pub jwt_public_key: Option<String>,

    /// File that holds the public key
    #[arg(long, env, global = true, value_name = "FILE")]
    pub jwt_public_key_file: Option<String>,

    /// What the claim `aud` of a JWT has to be or to list. Unset: it is not checked
    #[arg(long, env, global = true, value_name = "TEXT")]
    pub jwt_audience: Option<String>,

    /// What the claim `iss` of a JWT has to be. Unset: it is not checked
    #[arg(long, env, global = true, value_name = "TEXT")]
    pub jwt_issuer: Option<String>,

    /// The claim of a JWT that lists patterns of rooms
    #[arg(
        long,
        env,
        global = true,
        value_name = "NAME",
        default_value = super::tokens::ROOMS_CLAIM
    )]
    pub jwt_rooms_claim: String,

    /// Tokens that allow publishing on every channel by POST /publish/CHANNEL, comma-separated or
    /// one a line. Unset, and no JWT key either: there is no such path
    #[arg(long, env, global = true, value_name = "TOKENS", hide_env_values = true)]
    pub publish_token: Option<String>,

    /// File that holds the tokens
    #[arg(long, env, global = true, value_name = "FILE")]
    pub publish_token_file: Option<String>,

    /// The largest payload, up to 16MiB: one that is published here is answered 413, one that
    /// comes from Redis is dropped
    #[arg(long, env, global = true, value_name = "SIZE", default_value = super::MAX_PAYLOAD)]
    pub max_payload: String,

    /// Origins of other pages that may connect, comma-separated: `https://app.example.com`,
    /// `https://*.example.com`, or `*` for all. The server's own origin always may
    #[arg(long, env, global = true, value_name = "ORIGINS")]
    pub allowed_origins: Option<String>,

    /// Proxies whose X-Forwarded-For and X-Forwarded-Host are believed: addresses and networks,
    /// comma-separated, e.g. 10.0.0.0/8,::1
    #[arg(long, env, global = true, value_name = "NETWORKS")]
    pub trusted_proxies: Option<String>,

    /// How many connections are held; one more is answered 503. Unset: 20000, or less where the
    /// open-file limit or the container's memory (64KiB each of its half) asks for it
    #[arg(long, env, global = true, value_name = "COUNT")]
    pub max_connections: Option<String>,

    /// How many of them one address may hold; one more is answered 429. Unset: any number
    #[arg(long, env, global = true, value_name = "COUNT")]
    pub max_connections_per_address: Option<String>,

    /// How many rooms a socket may be in, up to 2000
    #[arg(long, env, global = true, value_name = "COUNT", default_value = super::limits::MAX_ROOMS)]
    pub max_rooms: String,

    /// How many events a socket may send in a second, after a burst of MAX_ROOMS joins and leaves
    #[arg(long, env, global = true, value_name = "COUNT", default_value = super::limits::MAX_EVENTS)]
    pub max_events: String,

    /// How large a message from a client may be, 4KiB to 1MiB
    #[arg(long, env, global = true, value_name = "SIZE", default_value = super::limits::MAX_MESSAGE)]
    pub max_message: String,

    /// How many bytes may wait for all viewers together; then those that most waits for are
    /// disconnected. Unset: 256MiB, or a quarter of the container's memory if less
    #[arg(long, env, global = true, value_name = "SIZE")]
    pub backlog_total: Option<String>,

    /// Over how long connections are closed on SIGTERM or Ctrl-C, 0s to 10m
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::GRACE)]
    pub grace: String,

    /// How the log is written to standard error: text or json
    #[arg(long, env, global = true, value_name = "FORMAT", default_value = super::LOG_FORMAT)]
    pub log_format: String,

    /// What is logged: error, warn, info, debug (each connection) or trace
    #[arg(long, env, global = true, value_name = "LEVEL", default_value = super::LOG_LEVEL)]
    pub log_level: String,
}

impl Settings {
    /// The settings that name files with what decides about access; they can be read again.
    pub fn secret_files(&self) -> Vec<&'static str> {
        let files = [
            ("JWT_SECRET_FILE", &self.jwt_secret_file),
            ("JWT_PUBLIC_KEY_FILE", &self.jwt_public_key_file),
            ("PUBLISH_TOKEN_FILE", &self.publish_token_file),
        ];
        let set = files.into_iter().filter(|(_, file)| super::given((*file).clone()).is_some());
        set.map(|(name, _)| name).collect()
    }
}
