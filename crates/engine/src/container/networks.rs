//! A container joins networks and leaves them, running or not.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use net::Publication;

use super::Live;
use super::actor::Actor;
use crate::error::Error;
use crate::model::{EndpointSpec, ErrorKind, NetworkMode};
use crate::networks;

impl Actor {
    /// Its run is over. What waits for it takes its turn after.
    pub(super) fn leave_networks(&self) {
        if self.engine.networks.membership(&self.record.id).is_none() {
            return;
        }
        let (engine, id) = (self.engine.clone(), self.record.id.clone());
        tokio::spawn(async move { networks::detach(&engine, &id).await });
    }

    /// The record first: what is acknowledged is durable.
    pub(super) async fn connect(
        &mut self,
        network: String,
        spec: EndpointSpec,
    ) -> Result<(), Error> {
        if matches!(
            self.record.spec.host.network,
            NetworkMode::Host | NetworkMode::Container(_)
        ) {
            return Err(Error::conflict(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        if self.record.networks.contains_key(&network) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "endpoint with name {} already exists in network {network}",
                    self.record.name
                ),
            ));
        }
        if let Some(live) = self.run.as_ref().map(|r| r.live.clone()) {
            let (record, name, wanted) = (self.record.clone(), network.clone(), spec.clone());
            let (pid, ports) = (live.pid, self.ports());
            let plugged = self
                .engine
                .blocking("connect the container", move |inner| {
                    networks::plug(inner, &record, pid, &name, &wanted)
                })
                .await;
            let done = match plugged {
                Ok(sockets) => self.now_in_networks(&live, ports, &sockets).await,
                Err(error) => Err(error),
            };
            if done.is_err() {
                // not acknowledged: nothing of it stays
                self.settle_networks().await;
            }
            done?;
        }
        self.record_mut().networks.insert(network, spec);
        let written = self.write_through().await;
        self.publish();
        written
    }

    fn ports(&self) -> Vec<Publication> {
        let membership = self.engine.networks.membership(&self.record.id);
        membership.map_or_else(Vec::new, |m| m.ports.clone())
    }

    /// What is still to be done when a container has other links: its shim holds new ports and serves
    /// names, and the table leads to its ports where they are.
    async fn now_in_networks(
        &self,
        live: &Live,
        before: Vec<Publication>,
        sockets: &[OwnedFd],
    ) -> Result<(), Error> {
        if !sockets.is_empty() {
            let failed = |e| Error::caused(ErrorKind::Internal, "keep the container's ports", e);
            live.shim.hold(sockets).await.map_err(failed)?;
        }
        if self.ports() != before {
            networks::ports_moved(&self.engine).await?;
        }
        self.serve_names(live).await
    }

    /// Has its shim answer its questions for names, where it is in a network that has them.
    async fn serve_names(&self, live: &Live) -> Result<(), Error> {
        let failed = |e| Error::caused(ErrorKind::Internal, "serve names to the container", e);
        let membership = self.engine.networks.membership(&self.record.id);
        let Some(membership) = membership.filter(|m| m.has_names()) else {
            return Ok(());
        };
        if live.shim.names_served().await.map_err(failed)? {
            return Ok(());
        }
        let pid = live.pid;
        let (file, sockets) = self
            .engine
            .blocking("make the container's name server", move |inner| {
                networks::name_server(inner, &membership, pid)
            })
            .await?;
        live.shim.serve_names(&file, &sockets).await.map_err(failed)
    }

    /// Whether what a container that was taken up has of networks may be other than what its record
    /// says: a change of it was cut short.
    pub(super) fn networks_unsettled(&self) -> bool {
        let membership = self.engine.networks.membership(&self.record.id);
        membership.is_some_and(|m| {
            let has: BTreeSet<&str> = m.endpoints.iter().map(|e| e.network.as_str()).collect();
            m.has_names() || !has.into_iter().eq(self.record.networks.keys())
        })
    }

    /// Makes it so as the record says: what was acknowledged is in it, and nothing else is.
    pub(super) async fn settle_networks(&self) {
        let Some(live) = self.run.as_ref().map(|r| r.live.clone()) else {
            return;
        };
        let (record, pid, ports) = (self.record.clone(), live.pid, self.ports());
        let changed = self
            .engine
            .blocking("settle the container's networks", move |inner| {
                let mut sockets = Vec::new();
                let Some(has) = inner.networks.membership(&record.id) else {
                    return Ok(sockets);
                };
                let stray =
                    |e: &&networks::EndpointState| !record.networks.contains_key(&e.network);
                for endpoint in has.endpoints.iter().filter(stray) {
                    networks::unplug(inner, &record, pid, &endpoint.network)?;
                }
                let lacks = |name: &str| !has.endpoints.iter().any(|e| e.network == name);
                for (name, spec) in record.networks.iter().filter(|(n, _)| lacks(n)) {
                    sockets.extend(networks::plug(inner, &record, pid, name, spec)?);
                }
                Ok(sockets)
            })
            .await;
        let settled = match changed {
            Ok(sockets) => self.now_in_networks(&live, ports, &sockets).await,
            // what can be had of it is
            Err(error) => {
                let rest = self.now_in_networks(&live, ports, &[]).await;
                rest.and(Err(error))
            }
        };
        if let Err(error) = settled {
            tracing::warn!(
                container = %self.record.id, error = %error.report(),
                "its networks are not quite as recorded until its next start"
            );
        }
    }

    pub(super) async fn disconnect(&mut self, network: &str) -> Result<(), Error> {
        if !self.record.networks.contains_key(network) {
            return Err(Error::conflict(format!(
                "container {} is not connected to network {network}",
                self.record.id
            )));
        }
        if let Some(pid) = self.run.as_ref().map(|r| r.live.pid) {
            let (record, name, ports) = (self.record.clone(), network.to_owned(), self.ports());
            self.engine
                .blocking("disconnect the container", move |inner| {
                    networks::unplug(inner, &record, pid, &name)
                })
                .await?;
            if self.ports() != ports {
                networks::ports_moved(&self.engine).await?;
            }
        }
        self.record_mut().networks.remove(network);
        let written = self.write_through().await;
        self.publish();
        written
    }
}
