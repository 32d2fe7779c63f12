//! Packets of clients, and that the hot path writes what the parser would.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn event(text: &str, ack: Option<i64>) -> Received {
    Received::ClientEvent { text: text.to_owned(), ack }
}

fn connect(namespace: &str, auth: Option<&str>) -> Received {
    Received::Connect { namespace: namespace.to_owned(), auth: auth.map(str::to_owned) }
}

#[test]
fn packets_are_read() {
    let table = [
        ("0", connect("/", None), 0),
        (r#"0{"token":"x"}"#, connect("/", Some(r#"{"token":"x"}"#)), 0),
        ("0/admin,", connect("/admin", None), 0),
        ("0/admin?token=x,", connect("/admin", None), 0),
        ("0/?token=x,", connect("/", None), 0),
        ("1", Received::Disconnect, 0),
        ("1/admin,", Received::Ignored, 0),
        (r#"2["a"]"#, event(r#"["a"]"#, None), 0),
        (r#"27["a"]"#, event(r#"["a"]"#, Some(7)), 0),
        (r#"2007["a"]"#, event(r#"["a"]"#, Some(7)), 0),
        (r#"29007199254740993["a"]"#, event(r#"["a"]"#, Some(9_007_199_254_740_993)), 0),
        (r#"299999999999999999999["a"]"#, event(r#"["a"]"#, None), 0),
        (r#"2/admin,1["a"]"#, Received::Ignored, 0),
        (
            r#"51-["a",{"_placeholder":true,"num":0}]"#,
            event(r#"["a",{"_placeholder":true,"num":0}]"#, None),
            1,
        ),
        (r#"52-7["a"]"#, event(r#"["a"]"#, Some(7)), 2),
        (r#"399["x"]"#, Received::Ignored, 0),
        ("399", Received::Ignored, 0),
        (r#"399999999999999999999[]"#, Received::Ignored, 0),
        (r#"61-99[{"_placeholder":true,"num":0}]"#, Received::Ignored, 1),
    ];
    for (text, received, attachments) in table {
        assert_eq!(decode(text), Ok((received, attachments)), "{text}");
    }
    for text in ["", "x", "7", "4{}", "5[]", "5-[]", "51000000000-[]", "599-[]"] {
        assert!(decode(text).is_err(), "{text}");
    }
}

#[test]
fn answers_are_frames_with_packets() {
    let text = |frame: Bytes| String::from_utf8(frame[2..].to_vec()).expect("UTF-8");
    let sid = Sid::ZERO;
    assert_eq!(text(connected(Protocol::V3, sid)), "40");
    assert!(text(connected(Protocol::V4, sid)).starts_with(r#"40{"sid":""#));
    assert_eq!(text(connect_error("/admin", "no")), r#"44/admin,{"message":"no"}"#);
    assert_eq!(text(disconnect()), "41");
    assert_eq!(text(acknowledgement(7, &json!({"ok": true}))), r#"437[{"ok":true}]"#);
    assert_eq!(text(super::event("hello", None::<&()>)), r#"42["hello"]"#);
    assert_eq!(text(super::event("error", Some(&json!({})))), r#"42["error",{}]"#);
}

proptest! {
    #[test]
    fn messages_are_written_as_the_parser_writes_them(text: String, meta in prop::option::of("[a-z]{0,9}")) {
        let meta = meta.map(|room| json!({ "room": room }));
        let json_text = serde_json::to_string(&text).expect("JSON");
        let rest: Vec<String> = meta.iter().map(ToString::to_string).collect();
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        let mut frames = BytesMut::new();
        put_message(&mut frames, &json_text, &rest);
        let value = match &meta {
            Some(meta) => json!(["message", text, meta]),
            None => json!(["message", text]),
        };
        let packet = Packet::event(MAIN, Value::Str(value.to_string().into(), None));
        prop_assert_eq!(frames.freeze(), encode(packet));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[0-7]?[0-9]{0,22}-?(/[a-z?=]{0,4},)?\\PC{0,20}") {
        let _read = decode(&text);
    }
}
