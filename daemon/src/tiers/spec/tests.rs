//! What specs mean, and each way in which one is refused.

use super::*;

fn parse_one(spec: &str) -> AdapterSpec {
    parse(&[spec.to_owned()]).unwrap().remove(0)
}

/// What is said about a spec behind a good one.
fn refusal_of(spec: &str) -> String {
    let good = r#"{"type": "fs", "base_path": "/var/cache/kv"}"#;
    let refusal = parse(&[good.to_owned(), spec.to_owned()])
        .unwrap_err()
        .to_string();
    assert!(!refusal.contains('\n'), "one line: {refusal:?}");
    refusal
        .strip_prefix("--l2-adapter #2: ")
        .unwrap_or(&refusal)
        .to_owned()
}

#[test]
fn a_spec_says_what_it_says_and_has_defaults_for_the_rest() {
    let fs = parse_one(r#"{"type": "fs", "base_path": "/a", "max_capacity_gb": 1.5}"#);
    assert_eq!(
        fs,
        AdapterSpec {
            name: "fs0".into(),
            is_required: true,
            timeout: Duration::from_secs(5),
            adapter: Adapter::Fs(FsSpec {
                base_path: "/a".into(),
                capacity_bytes: Some(3 << 29),
                is_direct: false,
            }),
        }
    );
    let resp = parse_one(
        r#"{"type": "resp", "host": "redis", "port": 7000, "username": "u", "password": "p",
            "prefix": "kv/", "name": "far", "required": false, "timeout_ms": 100}"#,
    );
    assert_eq!(resp.name, "far");
    assert!(!resp.is_required);
    assert_eq!(resp.timeout, Duration::from_millis(100));
    let Adapter::Resp(spec) = resp.adapter else {
        panic!("another type");
    };
    let host = "redis".into();
    assert_eq!(spec.place, RespPlace::Tcp { host, port: 7000 });
    assert_eq!(spec.password, Some(Password::Text("p".into())));
    let unix = parse_one(r#"{"type": "resp", "unix_socket": "/run/redis.sock"}"#);
    let Adapter::Resp(spec) = unix.adapter else {
        panic!("another type");
    };
    assert_eq!(spec.place, RespPlace::Unix("/run/redis.sock".into()));
}

#[test]
fn tiers_without_a_name_are_named_by_type_and_place() {
    let specs = [
        r#"{"type": "fs", "base_path": "/a"}"#,
        r#"{"type": "s3", "bucket": "kv-cache"}"#,
        r#"{"type": "fault_inject", "inner": {"type": "fs", "base_path": "/b"}, "kind": "slow", "rate": 0.5}"#,
        r#"{"type": "fault_inject", "inner": {"type": "fs", "base_path": "/c", "name": "c"}}"#,
    ];
    let specs = specs.map(str::to_owned);
    let names: Vec<String> = parse(&specs).unwrap().into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["fs0", "s31", "fault_inject2", "c"]);
}

#[test]
fn each_wrong_spec_is_refused_with_one_sentence_that_says_what_is_allowed() {
    for (spec, refusal) in [
        (
            "{",
            "Invalid JSON for --l2-adapter #2: EOF while parsing an object at line 1 column 1",
        ),
        ("[]", "expected a JSON object, got an array"),
        ("{}", "missing 'type' field"),
        (
            r#"{"type": "ftp"}"#,
            "unknown adapter type 'ftp'. Known: fault_inject, fs, resp, s3",
        ),
        (
            r#"{"type": "fs"}"#,
            "missing 'base_path' field of type 'fs'; allowed is the absolute path of a folder",
        ),
        (
            r#"{"type": "fs", "base_path": "kv"}"#,
            "field 'base_path' of type 'fs' is \"kv\"; allowed is the absolute path of a folder",
        ),
        (
            r#"{"type": "fs", "base_path": "/a", "max_capacity": 1}"#,
            "unknown field 'max_capacity' of type 'fs'. Known: base_path, max_capacity_gb, use_odirect, name, required, timeout_ms",
        ),
        (
            r#"{"type": "fs", "base_path": "/a", "max_capacity_gb": 0}"#,
            "field 'max_capacity_gb' of type 'fs' is 0; allowed is a number from 0.0001 to 1048576",
        ),
        (
            r#"{"type": "fs", "base_path": "/a", "use_odirect": "yes"}"#,
            "field 'use_odirect' of type 'fs' is \"yes\"; allowed is true or false",
        ),
        (
            r#"{"type": "fs", "base_path": "/a", "timeout_ms": 0}"#,
            "field 'timeout_ms' of type 'fs' is 0; allowed is a whole number from 1 to 600000",
        ),
        (
            r#"{"type": "fs", "base_path": "/a", "name": "a b"}"#,
            "field 'name' of type 'fs' is \"a b\"; allowed is a text of 1 to 64 letters, digits, '-', '_', '.' and ':'",
        ),
        (
            r#"{"type": "resp"}"#,
            "missing 'host' field of type 'resp'; allowed is the name or the address of a host, unless there is a 'unix_socket'",
        ),
        (
            r#"{"type": "resp", "port": 1, "unix_socket": "/s"}"#,
            "fields 'port' and 'unix_socket' of type 'resp' do not go together: the server listens on one place; leave one of both out",
        ),
        (
            r#"{"type": "resp", "host": "h", "password": "a", "password_file": "/p"}"#,
            "fields 'password' and 'password_file' of type 'resp' do not go together: there is one password; leave one of both out, best 'password'",
        ),
        (
            r#"{"type": "resp", "host": "h", "password": 12345}"#,
            "field 'password' of type 'resp' is not shown; allowed is a text that is not empty",
        ),
        (
            r#"{"type": "s3", "bucket": "My_Bucket"}"#,
            "field 'bucket' of type 's3' is \"My_Bucket\"; allowed is the name of a bucket, 3 to 63 lower-case letters, digits, '-' and '.'",
        ),
        (
            r#"{"type": "s3", "bucket": "abc", "endpoint": "localhost:9000"}"#,
            "field 'endpoint' of type 's3' is \"localhost:9000\"; allowed is an address that begins with http:// or https://",
        ),
        (
            r#"{"type": "s3", "bucket": "abc", "access_key_id": "k"}"#,
            "missing 'secret_access_key_file' field of type 's3'; allowed is the file of the secret of 'access_key_id'",
        ),
        (
            r#"{"type": "fault_inject"}"#,
            "missing 'inner' field of type 'fault_inject'; allowed is the spec of another adapter",
        ),
        (
            r#"{"type": "fault_inject", "inner": {"type": "fs", "base_path": "/a"}, "kind": "odd"}"#,
            "field 'kind' of type 'fault_inject' is \"odd\"; allowed is error, slow, hang, lose, corrupt, full, panic",
        ),
        (
            r#"{"type": "fault_inject", "inner": {"type": "fs"}}"#,
            "missing 'base_path' field of type 'fs'; allowed is the absolute path of a folder",
        ),
        (
            r#"{"type": "fs", "base_path": "/b", "name": "fs0"}"#,
            "another one is named \"fs0\" too; give each a 'name' of its own",
        ),
        (
            r#"{"type": "fs", "base_path": "/var/cache/kv"}"#,
            "another one has the base_path \"/var/cache/kv\" too; give each a folder of its own",
        ),
    ] {
        assert_eq!(refusal_of(spec), refusal);
    }
    let many = vec![r#"{"type": "s3", "bucket": "abc"}"#.to_owned(); MAX_ADAPTERS + 1];
    assert!(
        parse(&many)
            .unwrap_err()
            .to_string()
            .starts_with("17 --l2-adapter")
    );
}

#[test]
fn a_password_is_shown_nowhere() {
    let spec = parse_one(r#"{"type": "resp", "host": "h", "password": "hunter2"}"#);
    assert!(!format!("{spec:?}").contains("hunter2"));
}
