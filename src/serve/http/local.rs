//! `PUT` and `DELETE /local/<name>`: values that are put by hand.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Incoming;
use tracing::info;

use crate::cache::{MAX_LOCAL, no_place_for_local};
use crate::mapping::{Mapping, ProviderName};
use crate::secret::LocalName;
use crate::serve::Server;
use crate::serve::http::body::{Answer, json, read_body};
use crate::serve::http::refusal::Refusal;
use crate::serve::http::to_the_end;

/// Keeps the body as it is.
pub async fn put(server: &Arc<Server>, name: &str, body: Incoming) -> Result<Answer, Refusal> {
    let mapping = mapping(server, name)?;
    let value = read_body(body, MAX_LOCAL).await?;
    let server = Arc::clone(server);
    let put = to_the_end(async move {
        let put = server.sealed.put_local(mapping, value).await?;
        // Whoever has asked too early may ask again at once.
        server.lookups.forget_provider(ProviderName::Local);
        Ok(put)
    })
    .await?;
    if put.stored {
        info!("a local value was stored; generation {}", put.generation);
    }
    Ok(json(&put))
}

/// Removes the only copy.
pub async fn remove(server: &Arc<Server>, name: &str) -> Result<Answer, Refusal> {
    let mapping = mapping(server, name)?;
    let server = Arc::clone(server);
    let removed = to_the_end(async move { server.sealed.remove_local(mapping).await }).await?;
    if removed.removed {
        info!("a local value was removed");
    }
    Ok(json(&removed))
}

/// Where the local value `name` is, if there is a cache to keep it.
fn mapping(server: &Server, name: &str) -> Result<Mapping, Refusal> {
    let name = LocalName::parse(name)
        .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "bad_name", &e))?;
    match server.sealed.is_off() {
        true => {
            let why = no_place_for_local();
            Err(Refusal::new(StatusCode::CONFLICT, "not_cached", &why))
        }
        false => Ok(Mapping::local(&name)),
    }
}
