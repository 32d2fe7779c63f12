use std::sync::Arc;

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, Record, RecordType,
        rdata::{A, NS, TXT},
    },
};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

use super::*;

const RECORD: &str = "_acme-challenge.rt.example.com";

/// A name server for example.com on localhost, which returns `texts` as TXT records.
struct NameServer {
    addr: SocketAddr,
    texts: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    async fn start(refuses: bool) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let addr = socket.local_addr().expect("bound");
        let texts = Arc::<Mutex<Vec<String>>>::default();
        let server = Self { addr, texts: texts.clone() };
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((size, peer)) = socket.recv_from(&mut buffer).await {
                let asked = Message::from_vec(&buffer[..size]).expect("a question");
                let texts = texts.lock().clone();
                let mut answer = answer(asked, &texts);
                if refuses {
                    answer.metadata.response_code = ResponseCode::Refused;
                }
                let answer = answer.to_vec().expect("an answer");
                socket.send_to(&answer, peer).await.expect("sent");
            }
        });
        server
    }
}

fn answer(asked: Message, texts: &[String]) -> Message {
    let query = asked.queries[0].clone();
    let name = query.name().to_lowercase().to_string();
    let data = match (name.trim_end_matches('.'), query.query_type()) {
        ("example.com", RecordType::NS) => {
            vec![RData::NS(NS(Name::from_ascii("ns.example.com.").expect("a name")))]
        }
        ("ns.example.com", RecordType::A) => vec![RData::A(A::new(127, 0, 0, 1))],
        (RECORD, RecordType::TXT) => {
            texts.iter().map(|text| RData::TXT(TXT::new(vec![text.clone()]))).collect()
        }
        _ => Vec::new(),
    };
    let mut answer = asked.into_response();
    for data in data {
        answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
    }
    answer
}

#[tokio::test]
async fn the_authoritative_name_servers_are_found() {
    let server = NameServer::start(false).await;
    let system = Server::new(server.addr, true).expect("a resolver").resolver;
    let found = authoritative(&system, RECORD, server.addr.port()).await.expect("an answer");
    assert_eq!(found, [server.addr]);
    let none = authoritative(&system, "_acme-challenge.rt.example.org", 53).await;
    assert_eq!(none.expect("an answer"), []);
}

#[tokio::test]
async fn a_look_is_there_only_if_all_values_are_returned() {
    let name_server = NameServer::start(false).await;
    let server = Server::new(name_server.addr, false).expect("a resolver");
    let look = async || server.look(RECORD, &["one", "two"]).await;
    assert_eq!(look().await, Look::Missing);
    name_server.texts.lock().push("one".into());
    assert_eq!(look().await, Look::Missing);
    name_server.texts.lock().push("two".into());
    assert_eq!(look().await, Look::There);
}

#[tokio::test]
async fn a_server_that_refuses_queries_counts_as_silent() {
    let refusing = NameServer::start(true).await;
    let server = Server::new(refusing.addr, false).expect("a resolver");
    assert_eq!(server.look(RECORD, &["one"]).await, Look::Silent);
}
