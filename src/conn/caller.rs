//! The client that a request comes from, with what its connection and its address may still send.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::Extensions;
use tokio::time::sleep;

use super::{
    addresses::{IpPermit, network_of},
    connection::Connection,
};

/// What a request costs that makes the server join a room, look for a session or encode a history,
/// in packets.
const REQUEST: f32 = 10.0;

/// The client of a request or of a WebSocket.
#[derive(Clone)]
pub struct Caller {
    connection: Arc<Connection>,
    /// The permit of the client's address; `None` if addresses are not limited.
    permit: Option<Arc<IpPermit>>,
}

impl Caller {
    /// The caller behind a request: the connection's peer or, behind a trusted proxy, the client
    /// that the proxy names. `None` if the request did not come over a connection of ours.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        let connection = extensions.get::<Arc<Connection>>()?.clone();
        let permit = extensions.get::<Arc<IpPermit>>().cloned();
        Some(Self { permit: permit.or_else(|| connection.permit()), connection })
    }

    /// The caller behind all that comes over a connection that is one client's alone.
    pub fn alone(connection: &Arc<Connection>) -> Self {
        Self { connection: connection.clone(), permit: connection.permit() }
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The client's address; all clients of an IPv6 network of 64 bits count as one.
    pub fn address(&self) -> IpAddr {
        network_of(self.connection.client())
    }

    /// Waits until the connection and the address may send a request that costs. Nothing is refused:
    /// a client that sends too many is served more slowly.
    ///
    /// # Cancel safety
    /// A call that is dropped has counted the request.
    pub async fn pace(&self) {
        let waits = self.allowances().map(|allowance| allowance.wait(REQUEST));
        let wait = waits.max().unwrap_or_default();
        if wait > Duration::ZERO {
            sleep(wait).await;
        }
    }

    /// Counts a packet of a session; `false` if the connection or the address has sent too many.
    pub fn packet(&self) -> bool {
        // Each one counts, also after another one has said no.
        self.allowances().filter(|allowance| !allowance.packet()).count() == 0
    }

    fn allowances(&self) -> impl Iterator<Item = &super::rate::Allowance> {
        let address = self.permit.as_deref().and_then(IpPermit::allowance);
        self.connection.allowance().into_iter().chain(address)
    }
}
