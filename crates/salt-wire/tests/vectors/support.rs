//! Reading the vector files, and the steps that all subjects share.

use std::path::PathBuf;

use bytes::Bytes;
use openssl::base64;
use salt_wire::crypticle::AesKey;
use salt_wire::keys::{PrivateKey, PublicKey};
use salt_wire::msgpack::{Dialect, Limits, Value, decode, encode};
use serde_json::{Value as Json, json};

pub(crate) const VERSIONS: [&str; 3] = ["3006.27", "3007.14", "3008.3"];

pub(crate) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors")
}

pub(crate) fn vector(version: &str, name: &str) -> Json {
    let path = directory().join(version).join(format!("{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Runs a check over some files of every version; the version and file of a failure are printed.
pub(crate) fn for_each(names: &[&str], check: impl Fn(&str, &str, &Json)) {
    for version in VERSIONS {
        for name in names {
            println!("{version}/{name}");
            check(version, name, &vector(version, name));
        }
    }
}

pub(crate) fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json[key]
        .as_str()
        .unwrap_or_else(|| panic!("no text {key}"))
}

pub(crate) fn unbase64(json: &Json) -> Bytes {
    base64::decode_block(json.as_str().expect("base64 text"))
        .unwrap()
        .into()
}

/// The payload behind the empty delimiter frame.
pub(crate) fn payload(json: &Json, key: &str) -> Bytes {
    let frames = json[key].as_array().unwrap();
    assert_eq!(frames.len(), 2, "{key}");
    assert!(unbase64(&frames[0]).is_empty());
    unbase64(&frames[1])
}

/// Decodes a document of the network side and checks that it is written again the same way.
pub(crate) fn read(document: &Bytes) -> Value {
    let value = decode(document, Limits::CONTENT).unwrap();
    assert_eq!(encode(&value, Dialect::Old), document, "written again");
    value
}

/// Opens a container, checks that it is made again the same way, and returns the plaintext.
pub(crate) fn open(key: &AesKey, container: &Bytes) -> Bytes {
    let plaintext = key.decrypt(container).unwrap();
    let iv = container[..16].try_into().unwrap();
    assert_eq!(
        key.encrypt_with_iv(iv, &plaintext).unwrap(),
        *container,
        "enclosed again"
    );
    let other = AesKey::generate().unwrap();
    assert!(other.decrypt(container).unwrap_err().is_wrong_key());
    plaintext
}

pub(crate) fn aes_key(json: &Json, key: &str) -> AesKey {
    AesKey::parse(text(json, key)).unwrap()
}

/// The private key of one of the captured daemons.
pub(crate) fn daemon_key(version: &str, name: &str) -> PrivateKey {
    let keys = vector(version, "keys");
    PrivateKey::from_der(&unbase64(&keys["keys"][name]["private_pkcs1_der"])).unwrap()
}

pub(crate) fn daemon_public_key(version: &str, name: &str) -> PublicKey {
    let keys = vector(version, "keys");
    PublicKey::from_pem(text(&keys["keys"][name], "public_pem").as_bytes()).unwrap()
}

/// The form of the `decoded_*` parts: text where the bytes are UTF-8, else base64.
pub(crate) fn jsonish(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(flag) => json!(flag),
        Value::Int(number) => json!(number),
        Value::UInt(number) => json!(number),
        Value::Float32(number) => json!(number),
        Value::Float64(number) => json!(number),
        Value::Raw(raw) => match value.as_str() {
            Some(text) => json!(text),
            None => json!({ "$b64": base64::encode_block(raw) }),
        },
        Value::Array(items) => items.iter().map(jsonish).collect(),
        Value::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|(key, value)| (key.as_str().unwrap().to_owned(), jsonish(value)))
                .collect(),
        ),
        Value::Ext(..) => panic!("no vector has an extension type"),
    }
}

pub(crate) fn raw<'a>(map: &'a Value, key: &str) -> &'a Bytes {
    map.get(key)
        .and_then(Value::as_bytes)
        .unwrap_or_else(|| panic!("no {key}"))
}
