use super::*;

fn settings(change: impl FnOnce(&mut Settings)) -> Result<Config, String> {
    let mut settings = Settings::default();
    change(&mut settings);
    Config::try_from(settings).map_err(|problems| problems.to_string())
}

fn source_of(redishost: &str) -> Result<Source, String> {
    settings(|settings| settings.redishost = Some(redishost.to_owned())).map(|config| config.source)
}

fn address_of(redishost: &str) -> RedisAddress {
    match source_of(redishost) {
        Ok(Source::Redis(address)) => address,
        other => panic!("{redishost}: {other:?}"),
    }
}

/// Reads a credential, as it would be sent.
fn read(credential: &Option<Credential>) -> Option<String> {
    credential.as_ref()?.read().ok().map(|secret| secret.expose().to_owned())
}

#[test]
fn the_defaults_are_valid() {
    let config = settings(|_| ()).expect("valid");
    assert_eq!(config.http_addr, ListenAddr { host: None, port: 8080 });
    assert_eq!(config.admin_addr, Some(ListenAddr { host: Some("127.0.0.1".into()), port: 8081 }));
    assert_eq!(config.source, Source::Detect(RedisAddress::default()));
    assert_eq!(config.channels, ["*"]);
    assert_eq!(config.timing.slow_after, Duration::from_secs(10));
    assert!(!config.hello);
}

#[test]
fn all_invalid_settings_are_named_without_secrets() {
    let message = settings(|settings| {
        settings.http_addr = "8080x".into();
        settings.redishost = Some("redis://user:hunter2@/".into());
        settings.redis_password = Some("hunter2".into());
        settings.redis_password_file = Some("/nowhere".into());
        settings.slow_after = "30s".into();
        settings.max_connections = Some("-1".into());
        settings.hello = "maybe".into();
        settings.log_format = "xml".into();
        settings.assets = Some("/nowhere".into());
        settings.redis_channels = ",".into();
        settings.lanes = Some("65".into());
    });
    let message = message.map(|_| ()).expect_err("wrong");
    let names = [
        "HTTP_ADDR",
        "REDISHOST",
        "REDIS_PASSWORD",
        "SLOW_AFTER",
        "MAX_CONNECTIONS",
        "HELLO",
        "LOG_FORMAT",
        "ASSETS",
        "REDIS_CHANNELS",
        "LANES",
    ];
    for name in names {
        assert!(message.contains(&format!("\n  {name}: ")), "{name} in {message}");
    }
    assert!(message.starts_with("10 settings are wrong:"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn errors_about_redishost_do_not_repeat_credentials() {
    let azure = "cache.example:6380,password=hunter2=,ssl=True,abortConnect=False";
    for text in
        [azure, "user:hunter2@cache:6379", "redis://:hunter2@", "hunter2@cache", "http://hunter2"]
    {
        let problem = source_of(text).map(|_| ()).expect_err(text);
        assert!(!problem.contains("hunter2") || text.starts_with("http"), "{problem}");
    }
}

#[test]
fn redishost_is_parsed_in_all_its_forms() {
    assert_eq!(address_of("cache:7000"), RedisAddress::tcp("cache", 7000));
    assert_eq!(address_of("cache"), RedisAddress::tcp("cache", 6379));
    assert_eq!(address_of("[::1]:7000"), RedisAddress::tcp("::1", 7000));
    assert_eq!(address_of("redis://cache"), RedisAddress::tcp("cache", 6379));
    assert_eq!(address_of("redis://[::1]:7000/0"), RedisAddress::tcp("::1", 7000));
    assert!(address_of("rediss://cache.example:6380").is_tls());
    assert_eq!(
        address_of("unix:/run/redis.sock").transport,
        Transport::Unix("/run/redis.sock".into())
    );
    assert_eq!(
        address_of("unix:///run/redis.sock").transport,
        Transport::Unix("/run/redis.sock".into())
    );
    assert_eq!(source_of("embedded"), Ok(Source::Embedded(6379)));
    assert_eq!(source_of("embedded:0"), Ok(Source::Embedded(0)));
    for bad in [
        "http://cache",
        "::1:6379",
        "cache:port",
        "redis://cache/3",
        ":6379",
        "embedded:x",
        "unix:",
    ] {
        assert!(source_of(bad).is_err(), "{bad}");
    }
}

#[test]
fn credentials_come_from_the_url_or_from_their_own_settings() {
    let address = address_of("redis://me:a%2Bb+c%3D@cache:6379");
    assert_eq!(read(&address.username).as_deref(), Some("me"));
    assert_eq!(read(&address.password).as_deref(), Some("a+b+c="));
    assert_eq!(address.to_string(), "cache:6379");
    assert!(!format!("{address:?}").contains("a+b"));

    let azure = "kT3/pL+9w==";
    let config = settings(|settings| {
        settings.redishost = Some("redis://me:old@cache".into());
        settings.redis_password = Some(azure.into());
    });
    let Ok(Source::Redis(address)) = config.map(|config| config.source) else { panic!() };
    assert_eq!(read(&address.password).as_deref(), Some(azure));
    assert_eq!(read(&address.username).as_deref(), Some("me"));
}

#[test]
fn a_secret_is_read_from_a_file_at_each_use() {
    let file = std::env::temp_dir().join(format!("roomcast-secret-{}", std::process::id()));
    std::fs::write(&file, "top=secret/\n").expect("temporary file");
    let config = settings(|settings| {
        settings.redis_password_file = Some(file.to_string_lossy().into_owned());
    });
    let Ok(Source::Detect(address)) = config.map(|config| config.source) else { panic!() };
    assert_eq!(read(&address.password).as_deref(), Some("top=secret/"));
    std::fs::write(&file, "\u{feff} rotated \r\n").expect("temporary file");
    assert_eq!(
        read(&address.password).as_deref(),
        Some(" rotated "),
        "the file is read at each use"
    );
    std::fs::remove_file(&file).expect("the file exists");
}

#[test]
fn redis_tls_files_need_tls_and_come_in_pairs() {
    let with = |redishost: &str, cert: &str, key: &str| {
        settings(|settings| {
            settings.redishost = Some(redishost.into());
            settings.redis_cert = Some(cert.into());
            settings.redis_key = Some(key.into());
        })
    };
    assert!(with("rediss://cache", "c.pem", "k.pem").is_ok());
    assert!(with("rediss://cache", "c.pem", "").is_err_and(|text| text.contains("REDIS_KEY")));
    assert!(with("rediss://cache", "", "k.pem").is_err_and(|text| text.contains("REDIS_CERT")));
    assert!(with("cache", "c.pem", "k.pem").is_err_and(|text| text.contains("rediss://")));
}

#[test]
fn the_publish_host_uses_the_same_credentials_unless_its_url_has_others() {
    let with = |publish_host: &str| {
        let config = settings(|settings| {
            settings.redishost = Some("replica".into());
            settings.redis_publish_host = Some(publish_host.into());
            settings.redis_password = Some("shared".into());
        });
        config.ok().and_then(|config| config.publish_host)
    };
    let password = |host: &str| read(&with(host)?.password);
    assert_eq!(password("master:7000").as_deref(), Some("shared"));
    assert_eq!(password("redis://:own@master").as_deref(), Some("own"));
    assert_eq!(with("master").map(|address| address.setting), Some("REDIS_PUBLISH_HOST"));
    let both = settings(|settings| {
        settings.redishost = Some("embedded".into());
        settings.redis_publish_host = Some("master".into());
    });
    assert!(both.is_err_and(|text| text.contains("REDIS_PUBLISH_HOST")));
}

#[test]
fn a_public_host_rules_out_the_embedded_broker() {
    let config = settings(|settings| settings.rthost = Some("rt.example.com".into()));
    assert_eq!(config.map(|config| config.source), Ok(Source::Redis(RedisAddress::default())));
}

#[test]
fn durations_without_a_unit_are_seconds() {
    let range = (Duration::ZERO, Duration::from_secs(60));
    assert_eq!(duration("10s", range), Ok(Duration::from_secs(10)));
    assert_eq!(duration("1500ms", range), Ok(Duration::from_millis(1500)));
    assert_eq!(duration("7", range), Ok(Duration::from_secs(7)));
    assert!(duration("61s", range).is_err_and(|problem| problem.contains("0s to 1m")));
    assert!(duration("soon", range).is_err());
}

#[test]
fn a_prefix_of_paths_begins_with_a_slash_and_ends_without_one() {
    for (text, prefix) in [("/rt", "/rt"), ("/a/rt-1.0/", "/a/rt-1.0")] {
        assert_eq!(path_prefix(text), Ok(Some(prefix.into())), "{text}");
    }
    assert_eq!(path_prefix("/"), Ok(None));
    for bad in ["rt", "/a//b", "/../a", "/a b", "/a?b", "/ü", "https://a.example/rt"] {
        assert!(path_prefix(bad).is_err(), "{bad}");
    }
}

#[test]
fn patterns_are_parsed_without_duplicates() {
    assert_eq!(patterns(" a:*, b:? ,a:*,"), Ok(vec!["a:*".to_owned(), "b:?".to_owned()]));
}

#[test]
fn a_displayed_listen_address_parses_to_the_same_address() {
    for text in [":8080", "127.0.0.1:0", "[::1]:8080", "localhost:80"] {
        assert_eq!(text.parse::<ListenAddr>().map(|addr| addr.to_string()), Ok(text.to_owned()));
    }
    for bad in ["8080", "localhost", "::1:80", ":99999", "http://localhost:80", "[::1", "[::1]8080"]
    {
        assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
    }
}

#[test]
fn https_needs_both_certificate_and_key() {
    let both = |settings: &mut Settings| {
        settings.tls_cert = Some("cert.pem".into());
        settings.tls_key = Some("key.pem".into());
    };
    let config = settings(both).expect("valid");
    assert_eq!(config.http_addr.port, 8080);
    let https = config.https.expect("HTTPS");
    assert_eq!(https.addr, ListenAddr { host: None, port: 443 });
    let files = CertificateFiles { cert: "cert.pem".into(), key: "key.pem".into() };
    assert_eq!(https.certificate, CertificateSource::Files(files));
    for (name, change) in [
        ("TLS_KEY", (|settings| settings.tls_cert = Some("x".into())) as fn(&mut Settings)),
        ("TLS_CERT", |settings| settings.tls_key = Some("x".into())),
        ("HTTPS_ADDR", |settings| settings.https_addr = ":443".into()),
    ] {
        let message = settings(change).map(|_| ()).expect_err("wrong");
        assert!(message.contains(&format!("\n  {name}: ")), "{name} in {message}");
    }
}

#[test]
fn rthost_is_a_list_whose_first_name_is_no_wildcard() {
    let hosts = |text: &str| {
        settings(|settings| settings.rthost = Some(text.to_owned())).map(|config| config.hosts)
    };
    assert_eq!(hosts("RT.Example.com"), Ok(vec!["rt.example.com".to_owned()]));
    let list = vec!["a.example".to_owned(), "b.example".to_owned()];
    assert_eq!(hosts("a.example, b.example,A.example"), Ok(list));
    for bad in [
        "*.a.example",
        "https://a.example",
        "a.example:0",
        "a.example:port",
        "a.example,b.example:443",
        "a.b,*.a.b:8443",
        "a..b",
        "-a.b",
        "a.*.b",
        "a_b",
        "192.0.2.1",
    ] {
        assert!(hosts(bad).is_err_and(|message| message.contains("\n  RTHOST: ")), "{bad}");
    }
    let public = settings(|settings| settings.rthost = Some("a.example".into())).expect("valid");
    assert_eq!(public.http_addr, ListenAddr { host: None, port: 80 });
}

#[test]
fn the_public_port_is_443_or_the_port_in_rthost() {
    let port = |rthost: Option<&str>| {
        let config = settings(|settings| {
            settings.tls_cert = Some("cert.pem".into());
            settings.tls_key = Some("key.pem".into());
            settings.https_addr = ":8443".into();
            settings.rthost = rthost.map(str::to_owned);
        });
        config.map(|config| config.https.expect("HTTPS").public_port)
    };
    assert_eq!(port(None), Ok(None));
    assert_eq!(port(Some("a.example")), Ok(Some(443)));
    assert_eq!(port(Some("a.example:9443,b.example")), Ok(Some(9443)));
}

#[test]
fn certificates_are_ordered_for_public_hosts_without_files() {
    let acme = |change: fn(&mut Settings)| {
        let config = settings(|settings| {
            settings.rthost = Some("a.example".into());
            settings.cert_dir = Some("/certs".into());
            change(settings);
        });
        config.map(|config| match config.https.map(|https| https.certificate) {
            Some(CertificateSource::Acme(acme)) => acme,
            other => panic!("{other:?}"),
        })
    };
    let default = Acme {
        ca: Authority::Auto,
        ca_root: None,
        email: None,
        challenge: Challenge::TlsAlpn01,
        store: "/certs".into(),
    };
    assert_eq!(acme(|_| ()), Ok(default.clone()));
    let http = acme(|settings| settings.acme_challenge = "http-01".into());
    assert_eq!(http, Ok(Acme { challenge: Challenge::Http01, ..default.clone() }));
    let url = acme(|settings| settings.acme_ca = "https://ca.example/dir".into());
    let ca = Authority::Url("https://ca.example/dir".into());
    assert_eq!(url, Ok(Acme { ca, ..default }));
    let wildcard = acme(|settings| settings.rthost = Some("*.a.example,a.example".into()));
    assert!(
        wildcard.is_err_and(|message| message.contains("\n  RTHOST: `*.a.example` needs dns-01"))
    );
    for (name, change) in [
        (
            "ACME_CA",
            (|settings| settings.acme_ca = "http://ca.example".into()) as fn(&mut Settings),
        ),
        ("ACME_CHALLENGE", |settings| settings.acme_challenge = "dns".into()),
        ("ACME_CHALLENGE", |settings| settings.acme_challenge = "dns-01".into()),
        ("ACME_EMAIL", |settings| settings.acme_email = Some("me".into())),
    ] {
        assert!(acme(change).is_err_and(|message| message.contains(&format!("\n  {name}: "))));
    }
}

#[test]
fn trusted_proxies_are_parsed_as_addresses_and_networks() {
    let proxies = |text: &str| {
        let config = settings(|settings| settings.trusted_proxies = Some(text.to_owned()))?;
        Ok::<_, String>(config.trusted_proxies.iter().map(IpNet::to_string).collect::<Vec<_>>())
    };
    assert_eq!(proxies(" "), Ok(vec![]));
    let list = ["127.0.0.1/32", "::1/128", "10.0.0.0/8", "fd00::/8"].map(str::to_owned);
    assert_eq!(proxies("127.0.0.1, ::1,10.1.2.3/8,fd00::/8,::ffff:127.0.0.1"), Ok(list.to_vec()));
    for bad in ["proxy", "10.0.0.0/33", "10.0.0", "127.0.0.1:80", "[::1]", "*"] {
        let problem = proxies(bad).expect_err(bad);
        assert!(problem.contains(&format!("\n  TRUSTED_PROXIES: `{bad}` is ")), "{problem}");
    }
}

#[test]
fn allowed_origins_are_parsed_as_origins_and_patterns() {
    let origins = |text: &str| {
        let config = settings(|settings| settings.allowed_origins = Some(text.to_owned()))?;
        let shown = config.allowed_origins.iter().map(AllowedOrigin::to_string);
        Ok::<_, String>(shown.collect::<Vec<_>>())
    };
    let list = ["https://app.example.com", "https://*.example.com:8443", "http://[::1]:3000", "*"];
    assert_eq!(origins(&list.join(" , ")), Ok(list.map(str::to_owned).to_vec()));
    let list =
        ["https://app.example.com", "https://xn--bcher-kva.example", "capacitor://localhost"];
    let lax = "HTTPS://App.Example.com:443/,https://b\u{fc}cher.example,capacitor://localhost,";
    assert_eq!(origins(lax), Ok(list.map(str::to_owned).to_vec()));
    for bad in [
        "app.example.com",
        "https://app.example.com/page",
        "https://me@app.example.com",
        "https://*",
        "https://app.*.com",
        "https://",
        "null",
    ] {
        let problem = origins(bad).expect_err(bad);
        assert!(problem.contains(&format!("\n  ALLOWED_ORIGINS: `{bad}` is ")), "{problem}");
    }
}

#[test]
fn publish_tokens_are_separated_by_commas_or_lines() {
    let tokens = |text: &str| {
        let config = settings(|settings| settings.publish_token = Some(text.to_owned()));
        let tokens = config.expect("valid").publish_tokens;
        tokens.iter().map(|token| token.expose().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tokens(""), [""; 0]);
    assert_eq!(tokens("new=, old/ ,"), ["new=", "old/"]);
    assert_eq!(tokens("new\r\nold\n"), ["new", "old"]);
}

#[test]
fn max_payload_is_limited_to_16_mib() {
    let max = |text: &str| {
        settings(|settings| settings.max_payload = text.to_owned()).map(|config| config.max_payload)
    };
    assert_eq!(max(""), Ok(256 << 10));
    assert_eq!(max("16MiB"), Ok(16 << 20));
    for bad in ["17MiB", "0", "many"] {
        assert!(max(bad).is_err_and(|problem| problem.contains("\n  MAX_PAYLOAD: ")), "{bad}");
    }
}

const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----";

#[test]
fn jwts_need_exactly_one_valid_key() {
    let tokens = |secret: &str, public: &str| {
        let config = settings(|settings| {
            settings.jwt_secret = Some(secret.to_owned());
            settings.jwt_public_key = Some(public.to_owned());
        });
        config.map(|config| config.tokens)
    };
    assert_eq!(tokens("", ""), Ok(None));
    let Ok(Some(Tokens { key, rooms_claim, .. })) = tokens("secret", "") else { panic!() };
    assert_eq!(key, TokenKey::Secret("secret".to_owned().into()));
    assert_eq!(rooms_claim, "rooms");
    let lines_as_text = PUBLIC_KEY.replace('\n', "\\n");
    for text in [PUBLIC_KEY, &lines_as_text, &format!("{PUBLIC_KEY}\n")] {
        let Ok(Some(Tokens { key, .. })) = tokens("", text) else { panic!("{text}") };
        let TokenKey::Public(PublicKey { kind, bytes }) = key else { panic!("{text}") };
        assert_eq!((kind, bytes.len()), (KeyKind::Ed25519, 32));
    }
    let private = PUBLIC_KEY.replace("PUBLIC", "PRIVATE");
    let certificate = PUBLIC_KEY.replace("PUBLIC KEY", "CERTIFICATE");
    let unknown = PUBLIC_KEY.replace("MCowBQYDK2Vw", "MCowBQYDK2Vx");
    for (secret, public, told) in [
        ("secret", PUBLIC_KEY, "JWT_SECRET is set too"),
        ("", "hunter2", "PEM"),
        ("", &private, "private key"),
        ("", &certificate, "certificate"),
        ("", &unknown, "kind"),
    ] {
        let problem = tokens(secret, public).expect_err(told);
        assert!(problem.contains("\n  JWT_PUBLIC_KEY: "), "{problem}");
        assert!(problem.contains(told) && !problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn claim_settings_without_a_key_are_refused() {
    let problem = settings(|settings| settings.jwt_audience = Some("us".into()));
    let problem = problem.map(drop).expect_err("wrong");
    assert!(problem.contains("\n  JWT_AUDIENCE: without JWT_SECRET"), "{problem}");
}
