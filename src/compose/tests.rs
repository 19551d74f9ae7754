//! Tests of reading compose files and writing manifests from them.

use std::collections::BTreeMap;

use super::*;

/// Files by path, and the project that they make.
struct Case {
    files: Vec<(&'static str, &'static str)>,
    environment: BTreeMap<String, String>,
    profiles: Vec<String>,
    named: Vec<&'static str>,
}

fn case(text: &'static str) -> Case {
    Case {
        files: vec![("/srv/shop/compose.yaml", text)],
        environment: BTreeMap::new(),
        profiles: Vec::new(),
        named: vec!["/srv/shop/compose.yaml"],
    }
}

impl Case {
    fn with(mut self, path: &'static str, text: &'static str) -> Self {
        self.files.push((path, text));
        self
    }

    fn named(mut self, path: &'static str) -> Self {
        self.named.push(path);
        self
    }

    fn converted(&self) -> Result<Converted, String> {
        let read = |path: &Path| {
            let found = self.files.iter().find(|(known, _)| Path::new(known) == path);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::Error::other("no such file"))
        };
        let named: Vec<PathBuf> = self.named.iter().map(PathBuf::from).collect();
        let input = ComposeInput {
            files: &named,
            env_files: &[],
            environment: &self.environment,
            profiles: &self.profiles,
            project: None,
            out: Path::new("/srv/shop/desired-state"),
            checkout: Checkout {
                root: "/srv/shop".into(),
                url: "https://example.com/shop.git".to_owned(),
                branch: "main".to_owned(),
                is_known: true,
            },
            running: &[],
            platform: "linux/amd64",
            read: &read,
            exists: &|path| read(path).is_ok(),
        };
        convert(&input).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn manifest(&self) -> String {
        let converted = self.converted().unwrap();
        let lost: Vec<_> = converted.services.iter().filter(|service| !service.lost.is_empty()).collect();
        assert!(lost.is_empty(), "{lost:?}");
        converted.manifest
    }
}

#[track_caller]
fn holds(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|it| it.trim().trim_end_matches(',') == *line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_service_keeps_its_names_ports_data_and_check() {
    let manifest = case(
        "services:\n  web:\n    image: nginx\n    ports: ['127.0.0.1:8080:80']\n    volumes: ['data:/data', './site:/www:ro']\n\
         \x20   depends_on: {db: {condition: service_healthy}}\n    command: sh -c \"echo 'a b' $$HOME\"\n\
         \x20 db:\n    image: postgres:16\n    container_name: shop_db\n    environment: [POSTGRES_PASSWORD=pw, POSTGRES_DB=shop]\n\
         \x20   healthcheck: {test: pg_isready -U x, interval: 5s, timeout: 3s, retries: 5, start_period: 1m}\n\
         volumes: {data: }\n",
    )
    .with("/srv/shop/site", "")
    .manifest();
    holds(
        &manifest,
        &[
            "[environment.shop-web]",
            "container = \"shop-web-1\"",
            "image = \"nginx:latest\"",
            "port = 80",
            "publish = \"127.0.0.1:8080\"",
            "volumes = [\"shop_data:/data\", \"../site:/www:ro\"]",
            "command = [\"sh\", \"-c\", \"echo 'a b' $HOME\"]",
            "init = false",
            "group = \"shop\"",
            "needs = { db = \"healthy\" }",
            "[environment.shop-db]",
            "container = \"shop_db\"",
            "networks = { shop_default = { aliases = [\"db\", \"shop_db\"] } }",
            "env = { POSTGRES_DB = \"shop\", POSTGRES_PASSWORD = { secret_env = \"SHOP_DB_POSTGRES_PASSWORD\" } }",
            "health = { command = [\"/bin/sh\", \"-c\", \"pg_isready -U x\"], interval = \"5s\", start_deadline = \"1m 40s\", timeout = \"3s\" }",
        ],
    );
    assert!(!manifest.contains("pw"), "{manifest}");
}

#[test]
fn environment_variables_take_precedence_over_the_env_file() {
    let mut shop = case(
        "services:\n  a:\n    image: app:${TAG:-1}\n    environment:\n      KEY: ${API_TOKEN}\n      LEVEL: ${LEVEL}\n      URL: redis://:${REDIS_PASSWORD:-x}@r\n      NAMED:\n      GONE:\n",
    )
    .with("/srv/shop/.env", "TAG=2\nLEVEL=debug\nAPI_TOKEN=t0k3n\nNAMED=yes-it-is\n");
    shop.environment.insert("LEVEL".to_owned(), "info".to_owned());
    let converted = shop.converted().unwrap();
    holds(&converted.manifest, &["image = \"app:2\""]);
    for part in [
        "LEVEL = \"info\"",
        "KEY = { secret_env = \"SHOP_API_TOKEN\" }",
        "URL = { secret_env = \"SHOP_A_URL\" }",
        "NAMED = \"yes-it-is\"",
    ] {
        assert!(converted.manifest.contains(part), "{part}: {}", converted.manifest);
    }
    assert!(!converted.manifest.contains("t0k3n") && !converted.manifest.contains("GONE ="));
    assert_eq!(converted.secrets.keys().collect::<Vec<_>>(), ["SHOP_API_TOKEN", "SHOP_A_URL"]);
}

#[test]
fn extends_includes_anchors_and_overrides_are_resolved_as_compose_does() {
    let shop = case(
        "x-log: &log {driver: json-file, options: {max-size: 10m}}\ninclude: [tools/more.yaml]\nservices:\n  a:\n    extends: {file: base/common.yaml, service: app}\n    logging: *log\n    environment: {B: own}\n  b:\n    extends: a\n    container_name: bb\n",
    )
    .with("/srv/shop/base/common.yaml", "services:\n  app:\n    image: app:1\n    env_file: app.env\n    volumes: ['./conf:/conf']\n    environment: {A: base, B: base}\n    profiles: [never]\n")
    .with("/srv/shop/tools/more.yaml", "services:\n  tool:\n    image: tool:1\n    volumes: ['./x:/x']\n")
    .with("/srv/shop/over.yaml", "services:\n  a:\n    image: app:2\n    environment: {C: more}\n    ports: !override ['1:1']\n")
    .with("/srv/shop/base/app.env", "")
    .with("/srv/shop/base/conf", "")
    .with("/srv/shop/tools/x", "")
    .named("/srv/shop/over.yaml");
    let manifest = shop.manifest();
    holds(
        &manifest,
        &[
            "image = \"app:2\"",
            "env = { A = \"base\", B = \"own\", C = \"more\" }",
            "env_file = [\"../base/app.env\"]",
            // `b` extends `a`, so both write it.
            "volumes = [{ shared = true, source = \"../base/conf\", target = \"/conf\" }]",
            "volumes = [\"../tools/x:/x\"]",
            "logging = { driver = \"json-file\", options = { max-size = \"10m\" } }",
            "container = \"bb\"",
        ],
    );
    assert_eq!(manifest.matches("source = \"../base/conf\"").count(), 2, "{manifest}");
    let circle = case("services:\n  a:\n    extends: b\n    image: x\n  b:\n    extends: a\n");
    assert!(circle.converted().unwrap_err().contains("extends itself"));
}

#[test]
fn profiles_builds_secrets_and_configs_are_converted() {
    let mut shop = case(
        "services:\n  web:\n    build: {context: ./web, dockerfile: ./Dockerfile.prod, args: {A: 1}, target: run}\n    image: shop/web\n    secrets: [db, {source: key, target: /k, mode: 0400}]\n    configs: [{source: app, target: /app.conf}]\n  worker:\n    image: shop/web\n    command: [work]\n  debug:\n    image: debug:1\n    profiles: [tools]\n\
         secrets: {db: {file: ./db.txt}, key: {environment: KEY}}\nconfigs: {app: {content: \"a=1\\n\"}}\n",
    );
    let converted = shop.converted().unwrap();
    holds(
        &converted.manifest,
        &[
            "[repository.shop]",
            "source = { branch = \"main\", repository = \"shop\" }",
            "[environment.shop-web.build]",
            "context = \"web\"",
            "dockerfile = \"Dockerfile.prod\"",
            "target = \"run\"",
            "[environment.shop-worker.build]",
            "secrets = { db = { secret_file = \"/srv/shop/db.txt\" }, key = { mode = \"0400\", secret_env = \"SHOP_KEY\", target = \"/k\" } }",
            "volumes = [\"./shop.files/app:/app.conf:ro\"]",
        ],
    );
    assert_eq!(converted.files["shop.files/app"], "a=1\n");
    assert_eq!(converted.off["debug"], "tools");
    shop.profiles.push("tools".to_owned());
    assert!(shop.manifest().contains("[environment.shop-debug]"));
}

#[test]
fn a_variable_without_a_value_is_reported_once() {
    let shop = case(
        "services:\n  a:\n    image: a:1\n    labels: {x: 'a.${DOMAIN}', y: '${DOMAIN}', z: '${Z:-1}'}\n",
    );
    let converted = shop.converted().unwrap();
    let notes = &converted.services[0].notes;
    assert!(notes.len() == 1 && notes[0].contains("`DOMAIN` has no value"), "{notes:?}");
}

#[test]
fn secrets_of_a_read_only_service_are_mounted_as_compose_does() {
    let text = "services:\n  web:\n    image: a:1\n    read_only: true\n    secrets: [db, {source: key, target: /k}, {source: db, target: other}]\n\
                secrets: {db: {file: ./db.txt}, key: {file: /etc/key}}\n";
    let converted = case(text).with("/etc/key", "").converted().unwrap();
    let mounts = "volumes = [\"../db.txt:/run/secrets/db:ro\", \"/etc/key:/k:ro\", \"../db.txt:/run/secrets/other:ro\"]";
    holds(&converted.manifest, &[mounts]);
    assert_eq!(converted.services[0].first, ["put the secret /srv/shop/db.txt in place"]);
    let writable = case(
        "services:\n  web:\n    image: a:1\n    secrets: [db, {source: db, target: other}]\nsecrets: {db: {file: /db}}\n",
    );
    let both =
        "secrets = { db = { secret_file = \"/db\" }, db-2 = { secret_file = \"/db\", target = \"other\" } }";
    holds(&writable.manifest(), &[both]);
    // Nothing can write the value of a variable into a read-only container.
    let of_env = case(
        "services:\n  web:\n    image: a:1\n    read_only: true\n    secrets: [key]\nsecrets: {key: {environment: KEY}}\n",
    );
    assert!(of_env.converted().unwrap().services[0].lost.join("; ").contains("`read_only`"));
}

#[test]
fn secrets_below_a_file_system_in_memory_are_mounted_too() {
    let text = "services:\n  web:\n    image: a:1\n    tmpfs: ['/run:size=1m']\n    volumes: [{type: tmpfs, target: /keys}]\n\
                \x20   secrets: [db, {source: db, target: /keys/db}, {source: db, target: /app/db}]\nsecrets: {db: {file: ./db.txt}}\n";
    let manifest = case(text).manifest();
    holds(
        &manifest,
        &[
            "volumes = [\"../db.txt:/run/secrets/db:ro\", \"../db.txt:/keys/db:ro\"]",
            "secrets = { db = { secret_file = \"/srv/shop/db.txt\", target = \"/app/db\" } }",
            "tmpfs = [\"/keys\", \"/run:size=1m\"]",
        ],
    );
    let config = "services:\n  web:\n    image: a:1\n    tmpfs: /etc/app\n    configs: [{source: c, target: /etc/app/c}]\n\
                  configs: {c: {content: x}}\n";
    holds(&case(config).manifest(), &["volumes = [\"./shop.files/c:/etc/app/c:ro\"]"]);
    let of_env = "services:\n  web:\n    image: a:1\n    tmpfs: /run\n    secrets: [key]\nsecrets: {key: {environment: KEY}}\n";
    assert!(case(of_env).converted().unwrap().services[0].lost.join("; ").contains("below /run of `tmpfs`"));
}

/// Every place of a compose file that holds a text, with a secret in it.
const PLACES: &[&str] = &[
    "command: [server, --pass, '${DB_PASSWORD}']",
    "command: server --pass ${DB_PASSWORD}",
    "entrypoint: [server, '${DB_PASSWORD}']",
    "healthcheck: {test: [CMD, cli, -a, '${DB_PASSWORD}']}",
    "healthcheck: {test: 'cli \"$$(echo ${DB_PASSWORD})\"'}",
    "labels: {auth: '${DB_PASSWORD}'}",
    "labels: ['${DB_PASSWORD}=x']",
    "container_name: 'a-${DB_PASSWORD}'",
    "hostname: '${DB_PASSWORD}'",
    "user: '${DB_PASSWORD}'",
    "working_dir: '/${DB_PASSWORD}'",
    "volumes: ['./${DB_PASSWORD}:/x']",
    "volumes: ['x:/${DB_PASSWORD}']",
    "tmpfs: ['/${DB_PASSWORD}']",
    "env_file: ['${DB_PASSWORD}.env']",
    "ports: ['${DB_PASSWORD}:80']",
    "logging: {driver: syslog, options: {syslog-address: 'tcp://x:${DB_PASSWORD}@y'}}",
    "extra_hosts: {'a': '${DB_PASSWORD}'}",
    "networks: {default: {aliases: ['${DB_PASSWORD}']}}",
    "networks: [named]",
    "dns_search: '${DB_PASSWORD}'",
    "sysctls: {net.core.somaxconn: '${DB_PASSWORD}'}",
    "security_opt: ['label=${DB_PASSWORD}']",
    "stop_grace_period: '${DB_PASSWORD}'",
    "mem_limit: '${DB_PASSWORD}'",
    "deploy: {replicas: '${DB_PASSWORD}'}",
    "depends_on: ['${DB_PASSWORD}']",
    "restart: 'on-failure:${DB_PASSWORD}'",
    "profiles: ['${DB_PASSWORD}']",
    "image: 'app:${DB_PASSWORD}'",
    "build: {context: 'https://x:${DB_PASSWORD}@example.com/a.git'}",
    "build: {context: ., args: {A: '${DB_PASSWORD}'}}",
    "build: {context: ., args: [DB_PASSWORD]}",
    "build: {context: ., target: '${DB_PASSWORD}', labels: {a: '${DB_PASSWORD}'}, network: '${DB_PASSWORD}'}",
    "build: {context: ., dockerfile: '${DB_PASSWORD}', cache_from: ['${DB_PASSWORD}']}",
    "secrets: [{source: s, target: '${DB_PASSWORD}'}]",
    "configs: [{source: text, target: /x}]",
    "configs: [{source: env, target: /x}]",
    "configs: [{source: s, target: '/${DB_PASSWORD}'}]",
    "platform: '${DB_PASSWORD}'",
    "pull_policy: '${DB_PASSWORD}'",
    "network_mode: 'service:${DB_PASSWORD}'",
    "environment: {A: 'x ${DB_PASSWORD}', DB_PASSWORD: , B: '${NONE:-${DB_PASSWORD}}'}",
    "environment: ['A=x ${DB_PASSWORD}', '${DB_PASSWORD}=x', DB_PASSWORD]",
    "odd: '${DB_PASSWORD}'",
    "deploy: {resources: {limits: {cpus: '${DB_PASSWORD}'}}}",
    "annotations: {a: '${DB_PASSWORD}'}",
    "extends: {service: a, file: '${DB_PASSWORD}.yaml'}",
];

/// Everything of a conversion that users or files get.
fn everything(converted: &Converted) -> String {
    let json = serde_json::to_string(converted).unwrap();
    format!("{}{:?}{json}", converted.manifest, converted.files)
}

#[track_caller]
fn shows_no_secret(place: &str, converted: &Converted) {
    let all = everything(converted);
    assert!(!all.contains("hunter2") && !secrets::is_marked(&all), "{place}: {all}");
    if !converted.manifest.is_empty() {
        let file = SourceFile { name: "m.toml".to_owned(), text: converted.manifest.clone() };
        manifest::parse_with_places(&[file], None).unwrap();
    }
}

#[test]
fn no_value_of_a_secret_reaches_the_manifest_from_any_place_of_the_file() {
    for place in PLACES {
        let image = if ["image", "build", "extends"].iter().any(|key| place.starts_with(key)) {
            ""
        } else {
            "image: a:1\n    "
        };
        let text = format!(
            "services:\n  web:\n    {image}{place}\n  other:\n    image: a:1\n    environment: {{DB_PASSWORD: '${{DB_PASSWORD}}'}}\n\
             volumes: {{x: {{name: '${{DB_PASSWORD}}'}}}}\n\
             networks: {{named: {{name: '${{DB_PASSWORD}}'}}}}\nsecrets: {{s: {{file: ./s}}}}\n\
             configs: {{s: {{file: ./s}}, text: {{content: 'a ${{DB_PASSWORD}}'}}, env: {{environment: DB_PASSWORD}}}}\n"
        );
        // The same file with the value itself: one place shows that it is a secret.
        let literal = text.replace("${DB_PASSWORD}", "hunter2");
        if !literal.contains("extends") {
            shows_no_secret(place, &case(Box::leak(literal.into_boxed_str())).converted().unwrap());
        }
        let case = case(Box::leak(text.into_boxed_str())).with("/srv/shop/.env", "DB_PASSWORD=hunter2\n");
        match case.converted() {
            Ok(converted) => shows_no_secret(place, &converted),
            Err(error) => assert!(!error.contains("hunter2"), "{place}: {error}"),
        }
    }
}

/// Services whose secrets only their own places reveal. Each holds `hunter2`.
const REVEALING: &[&str] = &[
    "command: [serve, '--database-url=postgres://app:hunter2@db/app']",
    "command: [serve, --token, hunter2]",
    "command: serve --admin-password=hunter2",
    "command: redis-server --requirepass ${REDIS_PASSWORD:-hunter2}",
    "entrypoint: [sh, -c, 'export PASSWORD=hunter2; exec app']",
    "labels: {app.password: hunter2}",
    "labels: ['x.url=postgres://app:hunter2@db/app']",
    "healthcheck: {test: [CMD, psql, 'postgres://app:hunter2@db/app']}",
    "healthcheck: {test: 'mysqladmin ping -uroot -phunter2'}",
    "logging: {driver: splunk, options: {splunk-token: hunter2}}",
    "build: {context: ., args: {NPM_TOKEN: hunter2}}",
    "build: {context: 'https://me:hunter2@example.com/a.git'}",
    "volumes: ['cifs:/data']",
    "configs: [conf]",
    "environment: {DATABASE: 'host=db user=app password=hunter2'}",
    "environment: {CONNECTION: 'Server=db;User Id=sa;Password=hunter2;'}",
    "environment: {OMNIBUS: \"a = 1\\ngitlab_rails['initial_root_password'] = 'hunter2'\\n\"}",
    "environment: {SERVICE_ROLE_KEY: hunter2, ANON_KEY: hunter2-b, SESSION_KEY: hunter2-c}",
    "environment: {RABBITMQ_ERLANG_COOKIE: hunter2, PGPASS: hunter2-b, JWT: hunter2-c}",
    "environment: {HOOK: 'https://hooks.slack.com/services/T000/B000/hunter2'}",
    "environment: {KEYS: \"-----BEGIN RSA PRIVATE KEY-----\\nhunter2\\n-----END RSA PRIVATE KEY-----\"}",
];

#[test]
fn secrets_are_found_by_their_names_and_forms_in_each_place() {
    for place in REVEALING {
        let image = if place.starts_with("build") { "" } else { "image: a:1\n    " };
        let text = format!(
            "services:\n  web:\n    {image}{place}\n\
             volumes: {{cifs: {{driver_opts: {{type: cifs, o: 'username=me,password=hunter2,uid=1'}}}}}}\n\
             configs: {{conf: {{content: \"a: 1\\npassword: hunter2\\n\"}}}}\n"
        );
        let converted = case(Box::leak(text.into_boxed_str())).converted().unwrap();
        shows_no_secret(place, &converted);
        let is_reported = !converted.services[0].lost.is_empty() || !converted.secrets.is_empty();
        assert!(is_reported || everything(&converted).contains("password=${"), "{place}: {converted:?}");
    }
}

#[test]
fn a_secret_of_one_place_is_hidden_in_all_others_under_one_name() {
    let shop = case(
        "services:\n  redis:\n    image: redis:7\n    command: redis-server --requirepass hunter2\n\
         \x20 db:\n    image: db:1\n    environment: {DB_PASSWORD: pw-9-of-db}\n\
         \x20 web:\n    image: web:1\n    environment: {REDIS_HOST_PASSWORD: hunter2, ADMINS: 'admin:pw-9-of-db', DB_PASSWORD: pw-9-of-db}\n\
         \x20   entrypoint: sh -c \"serve --pass 'pw-9-of-db'\"\n",
    );
    let converted = shop.converted().unwrap();
    holds(
        &converted.manifest,
        &[
            "env = { ADMINS = { secret_env = \"SHOP_WEB_ADMINS\" }, DB_DB_PASSWORD = { secret_env = \"SHOP_DB_DB_PASSWORD\" }, DB_PASSWORD = { secret_env = \"SHOP_DB_DB_PASSWORD\" }, REDIS_HOST_PASSWORD = { secret_env = \"SHOP_REDIS_REQUIREPASS\" } }",
            "entrypoint = [\"sh\", \"-c\", \"serve --pass ''\\\"${DB_DB_PASSWORD}\\\"''\"]",
        ],
    );
    let lost = &converted.services.iter().find(|service| service.service == "redis").unwrap().lost;
    assert!(lost.join("; ").contains("`command` would show REDIS_REQUIREPASS (line 4)"), "{lost:?}");
    assert_eq!(converted.secrets["SHOP_DB_DB_PASSWORD"], "line 7 of the compose file");
    assert!(!everything(&converted).contains("hunter2") && !everything(&converted).contains("pw-9"));
}

#[test]
fn the_value_of_a_variable_is_hidden_however_the_file_names_the_variable() {
    for (service, section) in [
        ("environment: [DB_PASSWORD]", ""),
        ("environment: {A: '${DB_PASSWORD}'}", ""),
        ("secrets: [s]", "secrets: {s: {environment: DB_PASSWORD}}\n"),
    ] {
        let text = format!(
            "services:\n  web:\n    image: a:1\n    labels: {{a: 'x hunter2'}}\n    {service}\n{section}"
        );
        let case =
            case(Box::leak(text.into_boxed_str())).with("/srv/shop/.env", "DB_PASSWORD=hunter2\nOTHER=x\n");
        let converted = case.converted().unwrap();
        let lost = converted.services[0].lost.join("; ");
        assert!(lost.contains("`labels` would show DB_PASSWORD"), "{service}: {lost}");
        shows_no_secret(service, &converted);
    }
}

#[test]
fn a_password_that_is_a_usual_word_hides_no_other_text() {
    let manifest = case(
        "services:\n  nextcloud:\n    image: nextcloud:28\n    working_dir: /var/www/nextcloud\n\
         \x20   environment: {MYSQL_PASSWORD: nextcloud, MYSQL_USER: nextcloud, NODE_ENV: production, MODE: supersecrets}\n\
         \x20 db:\n    image: postgres:16\n    environment: {POSTGRES_USER: joiner, POSTGRES_PASSWORD: joiner, ROOT_PASSWORD: production, A_PASSWORD: supersecret}\n",
    )
    .manifest();
    for part in [
        "image = \"nextcloud:28\"",
        "working_dir = \"/var/www/nextcloud\"",
        "MODE = \"supersecrets\"",
        "MYSQL_USER = \"nextcloud\"",
        "NODE_ENV = \"production\"",
        "POSTGRES_USER = \"joiner\"",
        "MYSQL_PASSWORD = { secret_env",
        "POSTGRES_PASSWORD = { secret_env",
    ] {
        assert!(manifest.contains(part), "{part} is not in\n{manifest}");
    }
}

#[test]
fn secrets_of_two_projects_have_different_names() {
    let text = "services: {web: {image: 'a:1', environment: {A: '${API_TOKEN}'}}}\n";
    let names = ["a", "b"].map(|project| {
        let text = format!("name: {project}\n{text}");
        let case = case(Box::leak(text.into_boxed_str())).with("/srv/shop/.env", "API_TOKEN=x\n");
        case.converted().unwrap().secrets
    });
    assert_eq!(names[0]["A_API_TOKEN"], "`.env` or your shell, as API_TOKEN");
    assert!(names[1].contains_key("B_API_TOKEN") && names[1].len() == 1, "{names:?}");
}

#[test]
fn two_secrets_whose_names_would_be_equal_get_different_ones() {
    let shop = case("services:\n  a: {image: 'a:1', environment: {X: 'x ${B_TOKEN}', Y: '${A_X}'}}\n")
        .with("/srv/shop/.env", "B_TOKEN=t\nA_X=redis://:pw@r\n");
    let converted = shop.converted().unwrap();
    assert_eq!(converted.secrets.keys().collect::<Vec<_>>(), ["SHOP_A_X", "SHOP_A_X_2"]);
}

#[test]
fn a_source_that_begins_with_an_unset_variable_is_reported_with_what_is_left() {
    let converted = |mount: &str| {
        let text = format!("services:\n  git:\n    image: a:1\n    volumes: [{mount}]\n");
        let converted = case(Box::leak(text.into_boxed_str())).converted().unwrap();
        assert!(converted.empty.contains("HOME_OF_IT"), "{converted:?}");
        converted
    };
    for mount in ["'$HOME_OF_IT/data:/data'", "{type: bind, source: '${HOME_OF_IT}/data', target: /data}"] {
        let git = &converted(mount).services[0];
        let notes = git.notes.join("; ");
        assert!(notes.contains("begins with HOME_OF_IT") && notes.contains("expected in /data"), "{git:?}");
        assert_eq!(git.lost, Vec::<String>::new(), "compose takes the same place");
    }
    let git = &converted("'${HOME_OF_IT}:/data'").services[0];
    assert!(git.lost.join("; ").contains("the mount at /data needs HOME_OF_IT"), "{git:?}");
    let default = case("services: {git: {image: 'a:1', volumes: ['${NONE:-/srv}/data:/data']}}\n").manifest();
    assert!(default.contains("/srv/data"), "{default}");
}

#[test]
fn a_variable_without_a_value_is_noted_in_each_place() {
    for place in [
        "environment: {X: '${NONE}'}",
        "environment: ['X=a ${NONE}']",
        "volumes: ['/srv/${NONE}/data:/data']",
        "volumes: ['data:/data${NONE}']",
        "volumes: [{type: bind, source: './a${NONE}', target: /a}]",
        "volumes: ['named:/data']",
        "networks: [named]",
        "configs: [named]",
        "labels: {a: '${NONE}'}",
        "env_file: ['a${NONE}.env']",
    ] {
        let text = format!(
            "services:\n  web:\n    image: a:1\n    {place}\nvolumes: {{named: {{name: 'v${{NONE}}'}}}}\n\
             networks: {{named: {{name: 'n${{NONE}}'}}}}\nconfigs: {{named: {{content: 'c${{NONE}}'}}}}\n"
        );
        let converted = case(Box::leak(text.into_boxed_str())).converted().unwrap();
        let notes = converted.services[0].notes.join("; ");
        assert!(notes.contains("`NONE` has no value"), "{place}: {converted:?}");
        assert!(converted.empty.contains("NONE"), "{place}");
    }
    let secret = case("services: {web: {image: 'a:1', environment: {DB_PASSWORD: '${NONE}'}}}\n");
    let converted = secret.converted().unwrap();
    assert!(converted.empty.is_empty() && converted.secrets.contains_key("SHOP_NONE"), "{converted:?}");
}

#[test]
fn an_include_has_variables_of_its_own() {
    let text = "include:\n  - tools/compose.yaml\n  - {path: [more/compose.yaml], project_directory: ., env_file: more.env}\n\
                services: {web: {image: 'web:${TAG:-0}'}}\n";
    let shop = case(text)
        .with(
            "/srv/shop/tools/compose.yaml",
            "services: {tool: {image: 'tool:${TAG:-0}', labels: {own: '${OWN}'}}}\n",
        )
        .with("/srv/shop/tools/.env", "TAG=5\nOWN=tools\n")
        .with(
            "/srv/shop/more/compose.yaml",
            "services: {more: {image: 'more:${TAG:-0}', labels: {own: '${OWN}'}, env_file: a.env}}\n",
        )
        .with("/srv/shop/more/.env", "TAG=6\n")
        .with("/srv/shop/more.env", "TAG=7\nOWN=more\n");
    let manifest = shop.manifest();
    holds(
        &manifest,
        &[
            "image = \"tool:5\"",
            "image = \"more:7\"",
            "image = \"web:0\"",
            "labels = { own = \"tools\" }",
            "labels = { own = \"more\" }",
            "env_file = [\"../a.env\"]",
        ],
    );
    let shop = shop.with("/srv/shop/.env", "OWN=shop\n");
    assert_eq!(shop.manifest().matches("own = \"shop\"").count(), 2);
    let error = case("include: [{path: a.yaml, env_file: none.env}]\nservices: {web: {image: 'a:1'}}\n")
        .with("/srv/shop/a.yaml", "services: {}\n")
        .converted()
        .unwrap_err();
    assert!(error.contains("cannot read /srv/shop/none.env"), "{error}");
}

#[test]
fn one_secret_with_two_values_in_included_projects_is_rejected() {
    let shop = case("include: [a/compose.yaml, b/compose.yaml]\nservices: {web: {image: 'a:1'}}\n")
        .with(
            "/srv/shop/a/compose.yaml",
            "services: {a: {image: 'a:1', environment: {P: '${DB_PASSWORD}'}}}\n",
        )
        .with("/srv/shop/a/.env", "DB_PASSWORD=hunter2\n")
        .with(
            "/srv/shop/b/compose.yaml",
            "services: {b: {image: 'a:1', environment: {P: '${DB_PASSWORD}'}}}\n",
        )
        .with("/srv/shop/b/.env", "DB_PASSWORD=other\n");
    let error = shop.converted().unwrap_err();
    assert!(error.contains("different values of DB_PASSWORD") && !error.contains("hunter2"), "{error}");
}

#[test]
fn links_and_borrowed_volumes_are_needs() {
    let shop = case(
        "services:\n  app: {image: 'a:1', links: [db, 'redis:cache'], depends_on: {db: {condition: service_healthy}}}\n\
         \x20 db: {image: 'a:1'}\n  redis: {image: 'a:1'}\n  cron: {image: 'a:1', volumes_from: ['app:ro']}\n",
    );
    holds(
        &shop.manifest(),
        &["needs = { db = \"healthy\", redis = \"started\" }", "needs = { app = \"started\" }"],
    );
}

#[test]
fn a_config_of_an_unset_variable_names_it() {
    let text = "services: {web: {image: 'a:1', configs: [c]}}\nconfigs: {c: {environment: NONE}}\n";
    let lost = case(text).converted().unwrap().services[0].lost.join("; ");
    assert!(lost.contains("the config `c` needs NONE"), "{lost}");
}

#[test]
fn a_secret_outside_of_environment_is_read_by_a_shell_or_reported_with_a_remedy() {
    let text = "services:\n  redis:\n    image: redis:7\n    command: sh -c 'redis-server --requirepass ${REDIS_PASSWORD}'\n\
                \x20   healthcheck: {test: 'redis-cli -a \"${REDIS_PASSWORD}\" ping'}\n  db:\n    image: db:1\n\
                \x20   command: [serve, --password, '${DB_PASSWORD}']\n  web:\n    build: {context: ., args: {TOKEN_OF_NPM: '${NPM_TOKEN}'}}\n";
    let case = case(text).with("/srv/shop/.env", "REDIS_PASSWORD=a\nDB_PASSWORD=b\nNPM_TOKEN=c\n");
    let converted = case.converted().unwrap();
    holds(
        &converted.manifest,
        &[
            "command = [\"sh\", \"-c\", \"redis-server --requirepass \\\"${REDIS_PASSWORD}\\\"\"]",
            "env = { REDIS_PASSWORD = { secret_env = \"SHOP_REDIS_PASSWORD\" } }",
        ],
    );
    assert!(
        converted.manifest.contains("\"redis-cli -a \\\"${REDIS_PASSWORD}\\\" ping\""),
        "{}",
        converted.manifest
    );
    assert_eq!(converted.secrets.keys().collect::<Vec<_>>(), ["SHOP_REDIS_PASSWORD"]);
    let lost = |name: &str| {
        let service = converted.services.iter().find(|service| service.service == name).unwrap();
        (service.environment.clone(), service.lost.join("; "))
    };
    let (environment, why) = lost("db");
    assert!(environment.is_none() && why.contains("`command` would show DB_PASSWORD"), "{why}");
    let line = r#"`command: ["sh","-c","exec serve --password \"$$DB_PASSWORD\""]`"#;
    assert!(why.contains(line) && why.contains("add `DB_PASSWORD: ${DB_PASSWORD}` to"), "{why}");
    assert!(lost("web").1.contains("use a secret of the build"), "{}", lost("web").1);
}

#[test]
fn hashes_of_passwords_in_labels_reach_no_manifest() {
    let hash = "$$2y$$05$$QgoabVnNBN3gR4wezwQovOm0glw00bQvUPORrYxz7.rI/rnw07cBG";
    let of = |image: &str, users: &str| {
        let label = format!("traefik.http.middlewares.auth.basicauth.users={users}");
        let text = format!("services:\n  web:\n    image: {image}\n    labels: ['{label}']\n");
        case(Box::leak(text.into_boxed_str()))
            .with("/srv/shop/.env", "USERS='me:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/'\n")
    };
    let literal = of("registry.example.com/traefik:v3", &format!("me:{hash}")).converted().unwrap();
    holds(
        &literal.manifest,
        &[
            "labels = { \"traefik.http.middlewares.auth.basicauth.usersfile\" = \"/run/secrets/auth-users\" }",
            "secrets = { auth-users = { secret_env = \"SHOP_WEB_AUTH_USERS\" } }",
        ],
    );
    assert!(!literal.manifest.contains("QgoabVn"), "{}", literal.manifest);
    assert!(literal.secrets["SHOP_WEB_AUTH_USERS"].contains("line 4"), "{:?}", literal.secrets);
    let variable = of("traefik:v3", "${USERS}");
    holds(&variable.manifest(), &["secrets = { auth-users = { secret_env = \"SHOP_USERS\" } }"]);
    for (image, users) in
        [("whoami:1", format!("me:{hash}")), ("traefik:v3", format!("me:{hash},you:{hash}"))]
    {
        let converted = of(image, &users).converted().unwrap();
        let why = converted.services[0].lost.join("; ");
        assert!(converted.services[0].environment.is_none(), "{converted:?}");
        assert!(
            why.contains("`traefik.http.middlewares.auth.basicauth.usersfile=/run/secrets/NAME`"),
            "{why}"
        );
        assert!(!format!("{converted:?}").contains("QgoabVn"), "{converted:?}");
    }
}

#[test]
fn unsupported_services_are_reported_and_the_rest_is_written() {
    let converted = case(
        "services:\n  ok:\n    image: a:1\n  vpn:\n    image: a:1\n    network_mode: service:ok\n  three:\n    image: a:1\n    deploy: {replicas: 3}\n  odd:\n    image: a:1\n    blkio_config: {weight: 300}\n  bad:\n    image: a:1\n    ports: ['http']\n  net:\n    image: a:1\n    networks: [in]\nnetworks: {in: {internal: true}}\n",
    )
    .converted()
    .unwrap();
    let of = |name: &str| converted.services.iter().find(|it| it.service == name).unwrap();
    assert!(of("ok").environment.is_some());
    for (name, word) in [
        ("vpn", "network of another container"),
        ("three", "3 replicas"),
        ("odd", "blkio_config"),
        ("bad", "`http` of `ports`"),
        ("net", "internal"),
    ] {
        let service = of(name);
        assert!(service.environment.is_none() && service.lost.join("; ").contains(word), "{service:?}");
        assert!(converted.manifest.contains(&format!("# Service {name} ")), "{}", converted.manifest);
    }
}

#[test]
fn programs_that_end_are_complete_after_exit_code_0() {
    let converted = case(
        "services:\n  once:\n    image: a:1\n    restart: \"no\"\n  retried:\n    image: a:1\n    restart: on-failure:3\n  migrate:\n    image: a:1\n  web:\n    image: a:1\n    restart: always\n    depends_on: {migrate: {condition: service_completed_successfully}}\n",
    )
    .converted()
    .unwrap();
    let part = |name: &str| {
        let rest = converted.manifest.split(&format!("# Service {name} ")).nth(1).unwrap();
        rest.split("# Service ").next().unwrap().to_owned()
    };
    for name in ["once", "retried", "migrate"] {
        assert!(part(name).contains("restart = \"on-failure\""), "{}", converted.manifest);
    }
    assert!(!part("web").contains("restart ="), "{}", converted.manifest);
    assert!(part("once").contains("# note: it runs once for each new version"), "{}", part("once"));
    assert!(part("retried").contains("more than 3 times"), "{}", part("retried"));
}

#[test]
fn a_container_name_with_an_unset_variable_is_left_out() {
    let manifest = case("services:\n  web:\n    image: a:1\n    container_name: ${UNSET}-web\n").manifest();
    assert!(manifest.contains("container = \"shop-web-1\""), "{manifest}");
    assert!(manifest.contains("# note: `container_name` is left out: UNSET has no value"), "{manifest}");
}

#[test]
fn volumes_of_several_writers_are_shared_and_external_things_listed() {
    let converted = case(
        "services:\n  a:\n    image: a:1\n    volumes: [up:/up, nfs:/nfs]\n    networks: {front: {ipv4_address: 10.9.0.5, aliases: [x]}}\n    links: ['b:other']\n  b:\n    image: a:1\n    volumes: [up:/up]\n    ports: ['53:53/udp', '8000-8001:8000-8001', ':443:443']\nvolumes: {up: {name: uploads}, nfs: {driver_opts: {type: nfs}}}\nnetworks: {front: {ipam: {config: [{subnet: 10.9.0.0/24}]}}}\n",
    )
    .converted()
    .unwrap();
    let manifest = &converted.manifest;
    for part in [
        "{ shared = true, source = \"uploads\", target = \"/up\" }",
        "external = true",
        "shop_front = { aliases = [\"a\", \"x\"], ipv4_address = \"10.9.0.5\" }",
        "aliases = [\"b\", \"other\"]",
        "ports = [\"53:53/udp\", \"8000-8001:8000-8001\", \":443:443\"]",
        "docker network create --subnet 10.9.0.0/24 shop_front",
        "docker volume create --opt type='nfs' shop_nfs",
    ] {
        assert!(manifest.contains(part), "{part} is not in\n{manifest}");
    }
}

#[test]
fn files_that_compose_rejects_are_rejected_with_a_line_number() {
    for (text, word) in [
        ("services: {}", "declares no service"),
        ("services:\n  a:\n    image: ${A", "/srv/shop/compose.yaml:3: a value of `services` opens `${`"),
        ("a: [", "is not YAML"),
        ("services:\n  a: x", ":2: the service `a` must be a table"),
        ("- a", "must be a table"),
    ] {
        let error = case(text).converted().unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
    assert!(
        case("services:\n  a: {extends: {file: none.yaml, service: x}}")
            .converted()
            .unwrap_err()
            .contains("none.yaml")
    );
}

/// Files of the corpus that compose itself rejects as they are: variables, secrets or files that belong to them are
/// not part of the corpus. Checked with `docker-compose config`.
const INCOMPLETE: [&str; 5] = ["040.yaml", "098.yaml", "099.yaml", "109.yaml", "120.yaml"];

/// The share of a corpus: files and services, and those of them that are expressed.
#[allow(clippy::print_stdout, reason = "the share is what a reader of the test wants to see")]
fn share(folder: &Path) -> [usize; 4] {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.retain(|path| !INCOMPLETE.iter().any(|name| path.ends_with(name)));
    paths.sort();
    let [mut files, mut services, mut complete, mut expressed] = [0; 4];
    for path in &paths {
        let dir = path.parent().unwrap();
        let input = ComposeInput {
            files: std::slice::from_ref(path),
            env_files: &[],
            environment: &BTreeMap::new(),
            profiles: &["*".to_owned()],
            project: Some("shop"),
            out: &dir.join("desired-state"),
            checkout: Checkout {
                root: dir.into(),
                url: "/srv/shop".into(),
                branch: "main".into(),
                is_known: false,
            },
            running: &[],
            platform: "linux/amd64",
            read: &|path| std::fs::read_to_string(path),
            exists: &|path| path.exists(),
        };
        files += 1;
        let converted = match convert(&input) {
            Ok(converted) => converted,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        let lost = converted.services.iter().filter(|service| !service.lost.is_empty());
        lost.for_each(|service| {
            println!("{}: {}: {}", path.display(), service.service, service.lost.join("; "));
        });
        let good = converted.services.iter().filter(|service| service.environment.is_some()).count();
        services += converted.services.len();
        expressed += good;
        complete += usize::from(good == converted.services.len());
        if good > 0 {
            let file = SourceFile { name: "m.toml".to_owned(), text: converted.manifest };
            manifest::parse_with_places(&[file], input.out.to_str()).unwrap();
        }
    }
    println!("{}: {expressed} of {services} services, {complete} of {files} files", folder.display());
    [files, services, complete, expressed]
}

#[test]
fn nearly_all_services_in_public_compose_files_convert() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [files, services, complete, expressed] = share(&here.join("tests/compose"));
    assert_eq!((complete, expressed), (files, services), "the files of this repository");
    // Not everybody who builds abide has the files of others.
    let shared = ["../shared/compose-corpus", "../../shared/compose-corpus"].map(|path| here.join(path));
    let Some(corpus) = shared.iter().find(|path| path.is_dir()) else { return };
    let [files, services, complete, expressed] = share(corpus);
    assert!(expressed * 100 >= services * 95, "{expressed} of {services} services");
    assert!(complete * 100 >= files * 85, "{complete} of {files} files");
}

#[test]
fn services_become_one_group_that_starts_in_the_order_of_the_file() {
    let shop = case(
        "services:\n  shop: {image: app, depends_on: {Cache: {condition: service_started}, migrate: {}, db: {}, once: {condition: service_completed_successfully}}}\n  Cache: {image: redis}\n\
         \x20 db: {image: postgres:16, depends_on: {Cache: {condition: service_started}}}\n\
         \x20 migrate: {restart: always}\n  once: {image: app, restart: 'no'}\n",
    );
    let converted = shop.converted().unwrap();
    holds(
        &converted.manifest,
        &[
            "[environment.shop-shop]",
            "needs = { cache = \"started\", db = \"started\", once = \"completed\" }",
            "[environment.shop-cache]",
            "# note: it does not wait for migrate (`depends_on`), which is not in this manifest",
        ],
    );
    assert_eq!(converted.manifest.matches("group = \"shop\"").count(), 4, "{}", converted.manifest);
    let web = converted.services.iter().find(|service| service.service == "shop").unwrap();
    assert!(web.notes.iter().any(|note| note.contains("migrate")), "{web:?}");
    let alone = case("services: {shop: {image: app}}\n").manifest();
    assert!(alone.contains("[environment.shop]") && !alone.contains("group"), "{alone}");
}

#[test]
fn platforms_and_pull_policies_keep_their_values() {
    let of = |lines: &str| {
        let text = format!("services:\n  web:\n    image: app:1\n    {lines}\n");
        case(Box::leak(text.into_boxed_str())).converted().unwrap()
    };
    for (lines, written) in [
        ("platform: linux/amd64", Some("platform = \"linux/amd64\"")),
        ("platform: linux", Some("platform = \"linux/amd64\"")),
        ("platform: linux/arm64/v8", Some("platform = \"linux/arm64\"")),
        ("pull_policy: always", None),
        ("pull_policy: if_not_present", Some("pull_policy = \"missing\"")),
        ("pull_policy: missing", Some("pull_policy = \"missing\"")),
        ("pull_policy: daily", Some("pull_policy = \"daily\"")),
        ("pull_policy: every_36h", Some("pull_policy = \"every_1day12h\"")),
        ("pull_policy: never", Some("pull_policy = \"never\"")),
    ] {
        let converted = of(lines);
        assert!(converted.services[0].lost.is_empty(), "{lines}: {converted:?}");
        match written {
            Some(written) => holds(&converted.manifest, &[written]),
            None => assert!(!converted.manifest.contains("pull_policy"), "{}", converted.manifest),
        }
    }
    assert!(of("platform: linux/arm64").services[0].notes.join("; ").contains("needs an emulator"));
    let never = of("pull_policy: never");
    assert!(
        !never.manifest.contains("image =")
            && never.services[0].first.join("; ").contains("abide set shop-web IMAGE")
    );
    for wrong in ["platform: x/y/z/a", "pull_policy: hourly"] {
        assert!(!of(wrong).services[0].lost.is_empty(), "{wrong}");
    }
    let built = case(
        "services:\n  web:\n    build: {context: ., platforms: [linux/arm64]}\n    platform: linux/arm64\n    pull_policy: build\n",
    );
    holds(&built.manifest(), &["platform = \"linux/arm64\"", "pull_policy = \"build\""]);
}
