//! The one table in a container's own namespace: port 53 of its name server leads to where the
//! server's sockets are. They are on other ports so that the container can have a server of its own
//! at 0.0.0.0:53.

use std::net::Ipv4Addr;

use super::expr::{Expr, Load, Register};
use super::table::{self, IPV4, OUT, R0};
use super::{Protocol, Table};
use crate::socket::NetlinkError;

const NAME: &str = "plimsoll-names";

/// Has questions to port 53 of `at` go to these ports of it: in the namespace of the calling thread.
pub(crate) fn redirect(at: Ipv4Addr, ports: [(Protocol, u16); 2]) -> Result<(), NetlinkError> {
    let table = Table::new(NAME, false);
    table.transaction("lead questions for names to their server", |b| {
        // one that led to sockets which nobody serves is replaced
        table.put_table(b);
        table.delete_table(b);
        table.put_table(b);
        table.put_base(b, &OUT);
        for (protocol, port) in ports {
            table.put_rule(b, OUT.name, &rule(at, protocol, port));
        }
    })
}

fn rule(at: Ipv4Addr, protocol: Protocol, port: u16) -> Vec<Expr> {
    let mut out = table::family(IPV4);
    out.extend([
        Expr::Load(Load::Daddr4, R0),
        Expr::Equal(R0, at.octets().to_vec()),
        Expr::Load(Load::Protocol, R0),
        Expr::Equal(R0, vec![protocol.number()]),
        Expr::Load(Load::Dport, R0),
        Expr::Equal(R0, 53_u16.to_be_bytes().to_vec()),
        Expr::Value(R0, at.octets().to_vec()),
        Expr::Value(Register(1), port.to_be_bytes().to_vec()),
        Expr::Dnat {
            six: false,
            address: R0,
            port: Register(1),
        },
    ]);
    out
}
