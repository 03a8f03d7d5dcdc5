use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("s.toml")).map_err(|e| e.to_string())
}

fn error(text: &str) -> String {
    parse(text).expect_err(text)
}

#[test]
fn the_example_is_the_defaults_and_lists_each_key_with_a_comment() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
    assert_eq!(parse("").unwrap(), Config::default());
    let message = error("nothing_like_it = 1");
    let keys: Vec<&str> = message
        .split("known keys: ")
        .nth(1)
        .unwrap()
        .trim_end_matches(')')
        .split(", ")
        .collect();
    assert!(keys.len() >= 20, "{keys:?}");
    for key in keys {
        let at = EXAMPLE
            .find(&format!("\n{key} = "))
            .or_else(|| EXAMPLE.find(&format!("\n[{key}]")))
            .unwrap_or_else(|| panic!("{key} is not in docs/statelite.toml"));
        let above = EXAMPLE[..at].lines().last().unwrap();
        assert!(above.starts_with("# "), "{key} has no comment above it");
    }
}

#[test]
fn errors_name_the_place_and_the_nearest_key() {
    let e = error("log = \"info\"\n\ntmpfs_sise = \"1G\"\n");
    assert!(
        e.starts_with("s.toml:3:1: unknown key \"tmpfs_sise\" (did you mean \"tmpfs_size\"?"),
        "{e}"
    );
    let e = error("whiteouts = \"devise\"");
    assert!(
        e.starts_with("s.toml:1:13: unknown value \"devise\" (did you mean \"device\"?"),
        "{e}"
    );
    assert!(error("threads = 0").contains("s.toml:1:11: 0 threads"));
    assert!(error("log = ").starts_with("s.toml:1:"));
    assert!(error("command_timeout = 10").contains("such as \"10s\""));
    assert!(error("command_timeout = \"10 fortnights\"").contains("is no duration"));
    assert!(error("tables = \"tables\"").contains("is not an absolute path"));
    assert!(error("remote_root = \"/net/<path>\"").contains("<host>"));
    assert!(error("allow_commands = true").contains("list the commands"));
    assert!(error("[tmpfs_sizes]\ncompute = \"0\"").contains("s.toml:2:11"));
    assert!(error("require_mount = [\"/a/../b\"]").contains(".."));
}

#[test]
fn values_in_their_units() {
    let c = parse(
        "tmpfs_size = \"50%\"\ncommand_timeout = \"500ms\"\ncache_lifetime = \"0\"\n\
         allow_commands = [\"uname -r\"]\nlocaldisk_dir = \"/disk\"\n\
         [tmpfs_sizes]\ncn1 = 4096\nrack1 = \"2GiB\"\ncompute = \"512M\"\n",
    )
    .unwrap();
    assert_eq!(c.tmpfs_size.bytes(1000), 500);
    assert_eq!(c.command_timeout, Duration::from_millis(500));
    assert_eq!(c.cache_lifetime, Duration::ZERO);
    assert_eq!(c.localdisk_dir.as_deref(), Some(Path::new("/disk")));
    let groups = ["compute".to_owned(), "rack1".to_owned()];
    assert_eq!(c.tmpfs_size_of("cn1", &groups), TmpfsSize::Bytes(4096));
    assert_eq!(c.tmpfs_size_of("cn2", &groups), TmpfsSize::Bytes(512 << 20));
    assert_eq!(
        c.tmpfs_size_of("cn3", &groups[1..]),
        TmpfsSize::Bytes(2 << 30)
    );
    assert_eq!(c.tmpfs_size_of("x", &[]).to_string(), "50%");
    assert!(c.allow_commands.allows(&["uname", "-r"]));
    assert!(!c.allow_commands.allows(&["uname", "-a"]));
    assert!(!c.allow_commands.allows(&["uname"]));
}

#[test]
fn a_named_file_must_exist_and_the_default_one_need_not() {
    let e = Config::load(Some(Path::new("/nonexistent/s.toml"))).unwrap_err();
    assert!(
        e.to_string()
            .starts_with("/nonexistent/s.toml: cannot read"),
        "{e}"
    );
    if !Path::new(DEFAULT_PATH).exists() {
        assert_eq!(Config::load(None).unwrap(), Config::default());
    }
}
