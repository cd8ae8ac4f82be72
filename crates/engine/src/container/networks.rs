//! A container joins networks and leaves them, running or not.

use super::actor::Actor;
use crate::error::Error;
use crate::model::{EndpointSpec, NetworkMode};
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
            return Err(Error::conflict(format!(
                "endpoint with name {} already exists in network {network}",
                self.record.name
            )));
        }
        if let Some(pid) = self.run.as_ref().map(|r| r.live.pid) {
            let (id, name, wanted) = (self.record.id.clone(), network.clone(), spec.clone());
            self.engine
                .blocking("connect the container", move |inner| {
                    networks::plug(inner, &id, pid, &name, &wanted)
                })
                .await?;
        }
        self.record_mut().networks.insert(network, spec);
        let written = self.write_through().await;
        self.publish();
        written
    }

    pub(super) async fn disconnect(&mut self, network: &str) -> Result<(), Error> {
        if !self.record.networks.contains_key(network) {
            return Err(Error::conflict(format!(
                "container {} is not connected to network {network}",
                self.record.id
            )));
        }
        if let Some(pid) = self.run.as_ref().map(|r| r.live.pid) {
            let (id, name) = (self.record.id.clone(), network.to_owned());
            self.engine
                .blocking("disconnect the container", move |inner| {
                    networks::unplug(inner, &id, pid, &name)
                })
                .await?;
        }
        self.record_mut().networks.remove(network);
        let written = self.write_through().await;
        self.publish();
        written
    }
}
