//! Sign-ins: of Salt's own syndic, and of an independent client with other algorithms.

use bytes::Bytes;
use openssl::sha::sha256;
use salt_wire::auth::{
    AuthError, AuthExchange, AuthOutcome, AuthRequest, Credentials, MasterCheck, RefusedReason,
};
use salt_wire::gate::{Refusal, RequestKind, inspect, read_auth};
use salt_wire::ids::MinionId;
use salt_wire::keys::{EncAlgo, PrivateKey, PublicKey, SigAlgo};
use salt_wire::msgpack::Value;
use salt_wire::request::Nonce;
use serde_json::Value as Json;
use zeroize::Zeroizing;

use crate::support::{aes_key, daemon_key, for_each, jsonish, payload, raw, read, text, unbase64};

pub(crate) const FILES: &[&str] = &[
    "auth_first",
    "auth_pending",
    "auth_token",
    "extra_auth_bad_sig_algo",
    "extra_auth_denied",
    "extra_auth_master_sign_pubkey",
    "extra_auth_mode2",
    "extra_auth_rejected",
    "extra_auth_sha224",
    "extra_auth_sha224_token",
    "extra_auth_v0",
    "extra_auth_v1",
    "extra_auth_v2",
];

/// One captured sign-in with the keys of both sides.
struct Captured {
    request: Bytes,
    reply: Bytes,
    client: PrivateKey,
    master: PrivateKey,
}

impl Captured {
    fn of_syndic(version: &str, json: &Json) -> Self {
        Self {
            request: payload(json, "request_frames"),
            reply: payload(json, "reply_frames"),
            client: daemon_key(version, "syn1"),
            master: daemon_key(version, "mom"),
        }
    }

    fn of_independent_client(json: &Json) -> Self {
        let key = |name: &str| PrivateKey::from_der(&unbase64(&json[name])).unwrap();
        Self {
            request: unbase64(&json["request"]),
            reply: unbase64(&json["reply"]),
            client: key("client_private_pkcs1_der"),
            master: key("master_private_pkcs1_der"),
        }
    }

    fn master_key(&self) -> PublicKey {
        self.master.public_key().unwrap()
    }

    /// The exchange as the client had it; the token is opened with the master's key.
    fn exchange(&self, request: AuthRequest) -> AuthExchange {
        let token = request.token.as_ref().map(|sealed| {
            let token = self.master.decrypt(request.enc_algo, sealed).unwrap();
            Zeroizing::new(String::from_utf8(token.to_vec()).unwrap())
        });
        let known = token.is_some().then(|| self.master_key());
        AuthExchange::recorded(request, self.client.clone(), token, known)
    }

    fn verify(&self, check: &MasterCheck<'_>) -> Result<AuthOutcome, AuthError> {
        self.exchange(read_auth(&self.request).unwrap())
            .verify(&self.reply, check)
    }

    fn accepted(&self, check: &MasterCheck<'_>) -> Credentials {
        let credentials = match self.verify(check).unwrap() {
            AuthOutcome::Accepted(credentials) => *credentials,
            other => panic!("not accepted: {other:?}"),
        };
        assert_eq!(credentials.master_key, self.master_key());
        self.makes_the_same_signatures(&credentials);
        credentials
    }

    /// All of a reply but the OAEP blocks is deterministic.
    fn makes_the_same_signatures(&self, credentials: &Credentials) {
        let sig_algo = read_auth(&self.request).unwrap().sig_algo;
        let reply = read(&self.reply);
        let signed = raw(&reply, "load");
        assert_eq!(
            self.master.sign(sig_algo, signed).unwrap(),
            *raw(&reply, "sig")
        );
        let digest = sha256(credentials.aes.to_text().as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let load = read(signed);
        assert_eq!(
            self.master.x931_sign(digest.as_bytes()).unwrap(),
            *raw(&load, "sig")
        );
        assert_eq!(raw(&load, "pub_key"), self.master_key().to_pem());
    }
}

#[test]
fn sign_ins_of_salts_own_syndic() {
    for_each(
        &["auth_pending", "auth_first", "auth_token"],
        |version, name, json| {
            let captured = Captured::of_syndic(version, json);
            let request = read_auth(&captured.request).unwrap();
            assert_eq!(
                request.encode(),
                captured.request,
                "the request is made again"
            );
            let envelope = read(&captured.request);
            assert_eq!(
                jsonish(envelope.get("load").unwrap()),
                json["decoded_request"]
            );
            assert_eq!(request.token.is_some(), name == "auth_token");
            let id = MinionId::parse("syn1").unwrap();
            assert_eq!(inspect(&captured.request), Ok(RequestKind::Auth { id }));
            let load = read(raw(&read(&captured.reply), "load"));
            assert_eq!(jsonish(&load), json["decoded_reply_load"]);
            if name == "auth_pending" {
                let outcome = captured.verify(&MasterCheck::default()).unwrap();
                assert!(matches!(outcome, AuthOutcome::Pending));
                return;
            }
            let finger = captured.master_key().fingerprint("sha256").unwrap();
            let check = MasterCheck {
                finger: Some(&finger),
                ..MasterCheck::default()
            };
            let credentials = captured.accepted(&check);
            assert_eq!(credentials.aes, aes_key(json, "aes_key"));
            assert_eq!(credentials.session, aes_key(json, "session_key"));
            assert_eq!(credentials.publish_port, 4505);
            assert_eq!(credentials.store_master_key, name == "auth_first");
        },
    );
}

#[test]
fn sign_ins_with_other_algorithms_and_options() {
    let names = [
        "extra_auth_sha224",
        "extra_auth_sha224_token",
        "extra_auth_mode2",
        "extra_auth_v2",
    ];
    for_each(&names, |_, name, json| {
        let captured = Captured::of_independent_client(json);
        let request = read_auth(&captured.request).unwrap();
        assert_eq!(request.enc_algo.as_str(), text(json, "enc_algo"));
        assert_eq!(request.sig_algo.as_str(), text(json, "sig_algo"));
        if matches!(name, "extra_auth_sha224" | "extra_auth_mode2") {
            assert_eq!(
                request.encode(),
                captured.request,
                "the request is made again"
            );
        }
        captured.accepted(&MasterCheck::default());
    });
}

#[test]
fn master_keys_signed_by_a_signing_key() {
    for_each(&["extra_auth_master_sign_pubkey"], |_, _, json| {
        let captured = Captured::of_independent_client(json);
        let pem = text(json, "master_sign_public_pem");
        let signing_key = PublicKey::from_pem(pem.as_bytes()).unwrap();
        let check = |signing_key| MasterCheck {
            signing_key,
            ..MasterCheck::default()
        };
        captured.accepted(&check(Some(&signing_key)));
        let other = captured.master_key();
        let invalid = captured.verify(&check(Some(&other))).unwrap_err();
        assert!(matches!(invalid, AuthError::PubSigInvalid));
        let unexpected = captured.verify(&check(None)).unwrap_err();
        assert!(matches!(unexpected, AuthError::PubSigUnexpected));
    });
}

#[test]
fn refusals() {
    for_each(
        &["extra_auth_denied", "extra_auth_rejected"],
        |_, _, json| {
            let captured = Captured::of_independent_client(json);
            let outcome = captured.verify(&MasterCheck::default()).unwrap();
            assert!(matches!(
                outcome,
                AuthOutcome::Refused(RefusedReason::RejectedOrDenied)
            ));
        },
    );
    for_each(&["extra_auth_bad_sig_algo"], |_, _, json| {
        let captured = Captured::of_independent_client(json);
        assert_eq!(inspect(&captured.request), Err(Refusal::SigAlgo));
        read(&captured.request);
        let outcome = captured
            .exchange(unguarded(&captured.request))
            .verify(&captured.reply, &MasterCheck::default())
            .unwrap();
        assert!(matches!(
            outcome,
            AuthOutcome::Refused(RefusedReason::BadSigAlgo)
        ));
    });
}

#[test]
fn unsigned_protocol_versions_are_neither_let_through_nor_believed() {
    for_each(&["extra_auth_v0", "extra_auth_v1"], |_, _, json| {
        let captured = Captured::of_independent_client(json);
        assert_eq!(inspect(&captured.request), Err(Refusal::Version));
        read(&captured.request);
        let reply = read(&captured.reply);
        let error = captured
            .exchange(unguarded(&captured.request))
            .verify(&captured.reply, &MasterCheck::default())
            .unwrap_err();
        assert!(matches!(error, AuthError::Malformed { field: "load" }));
        // The keys in it are the usual ones all the same.
        let aes = captured
            .client
            .decrypt(EncAlgo::OaepSha1, raw(&reply, "aes"))
            .unwrap();
        let digest: String = sha256(&aes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let signed = captured
            .master_key()
            .x931_recover(raw(&reply, "sig"))
            .unwrap();
        assert_eq!(signed, digest.as_bytes());
    });
}

/// A request that the gate refuses, read without it.
fn unguarded(request: &Bytes) -> AuthRequest {
    let envelope = read(request);
    let load = envelope.get("load").unwrap();
    AuthRequest {
        id: MinionId::parse(load.get_str("id").unwrap()).unwrap(),
        public_key: PublicKey::from_pem(raw(load, "pub")).unwrap(),
        nonce: Nonce::parse(load.get_str("nonce").unwrap()).unwrap(),
        enc_algo: EncAlgo::default(),
        sig_algo: SigAlgo::default(),
        token: load.get("token").and_then(Value::as_bytes).cloned(),
        autosign_grains: None,
    }
}
