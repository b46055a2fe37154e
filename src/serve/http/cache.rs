//! `POST /cache/…`: hand-overs, and operations on the cache.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Incoming;
use tracing::info;

use crate::error::{Kind, Result};
use crate::heap;
use crate::mapping::ProviderName;
use crate::protector::SlotKind;
use crate::secret::SecretName;
use crate::serve::Server;
use crate::serve::http::body::{Answer, Bounded, json, parse, read_body, secret_json};
use crate::serve::http::refusal::Refusal;
use crate::serve::http::stream::stream;
use crate::serve::http::{blocking, to_the_end};
use crate::wire::{
    Check, Init, Invalidate, Invalidated, MAX_HAND_OVER, Prune, Pruned, Slots, Verified,
};

/// Largest body of the small JSON requests, in bytes: a check of some ten thousand mappings.
const MAX_QUESTION: usize = 16 << 20;

/// `POST /cache/<operation>`, for who may write.
pub async fn cache(
    server: &Arc<Server>,
    operation: &str,
    body: Incoming,
) -> Result<Answer, Refusal> {
    match operation {
        "check" => check(server, &read_body(body, MAX_QUESTION).await?).await,
        "prune" => prune(server, &read_body(body, MAX_QUESTION).await?).await,
        "invalidate" => invalidate(server, &read_body(body, MAX_QUESTION).await?).await,
        "verify" => {
            let header = server.sealed.verify().await?;
            Ok(json(&Verified::from(&header)))
        }
        "init" => {
            let asked: Init = parse(&read_body(body, MAX_QUESTION).await?)?;
            init(server, asked).await
        }
        "slots" => {
            let asked: Slots = parse(&read_body(body, MAX_QUESTION).await?)?;
            let task = Arc::clone(server);
            let changed = to_the_end(async move { task.sealed.change_slots(asked).await });
            Ok(secret_json(&changed.await?))
        }
        provider => match ProviderName::parse(provider) {
            Some(ProviderName::Local) => Err(Refusal::said(
                StatusCode::BAD_REQUEST,
                "bad_request",
                "local values are not handed over: each is put by hand",
                "`psi-cachectl put NAME` stores one",
            )),
            Some(provider) => {
                let body = Bounded::new(body, MAX_HAND_OVER)?;
                hand_over(server, provider, body).await
            }
            None => Err(Refusal::said(
                StatusCode::NOT_FOUND,
                "unknown_provider",
                "there is no such provider and no such operation on the cache",
                "what is handed over comes from infisical or nitrokeyhsm",
            )),
        },
    }
}

async fn init(server: &Arc<Server>, asked: Init) -> Result<Answer, Refusal> {
    let task = Arc::clone(server);
    let wants_credential = asked.kind == Some(SlotKind::Credential);
    let made = to_the_end(async move { task.sealed.init(asked).await }).await;
    let made = made.map_err(|e| match e.kind() {
        Kind::Unreachable if wants_credential => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no_key", &e)
        }
        _ => e.into(),
    })?;
    Ok(secret_json(&made))
}

async fn hand_over(
    server: &Arc<Server>,
    provider: ProviderName,
    body: Bounded,
) -> Result<Answer, Refusal> {
    let (source, text) = stream(body);
    if server.sealed.is_off() {
        drop(text);
        source.feed().await?;
        return Err(Refusal::said(
            StatusCode::CONFLICT,
            "not_cached",
            "no cache is kept: every lookup is live",
            "set `cache.backend` in config.yaml for containers to start while the provider is down",
        ));
    }
    let server = Arc::clone(server);
    let taking_over = to_the_end(async move {
        server.lookups.make_room();
        let handed_over = server.sealed.hand_over(provider, text).await;
        // What is no hand-over says nothing of what the provider has.
        if !matches!(&handed_over, Err(e) if e.kind() == Kind::Usage) {
            server.lookups.forget_provider(provider);
        }
        let handed_over = handed_over?;
        server.settle_carried(provider, &handed_over).await;
        Ok(handed_over)
    });
    let (fed, handed_over) = tokio::join!(source.feed(), taking_over);
    fed?;
    let handed_over = handed_over?;
    heap::give_back();
    let sum = |count: fn(&crate::wire::Counts) -> usize| -> usize {
        handed_over.workloads.values().map(count).sum()
    };
    info!(
        "{provider} handed over {} workloads: {} values stored, {} unchanged, {} retired; generation {}",
        handed_over.workloads.len(),
        sum(|c| c.stored),
        sum(|c| c.unchanged),
        sum(|c| c.retired),
        handed_over.generation,
    );
    Ok(json(&handed_over))
}

async fn check(server: &Arc<Server>, body: &[u8]) -> Result<Answer, Refusal> {
    let asked: Check = parse(body)?;
    server.sealed.settled().await;
    let task = Arc::clone(server);
    let checked = blocking(move || task.lookups.check(&asked)).await?;
    Ok(json(&checked))
}

async fn prune(server: &Arc<Server>, body: &[u8]) -> Result<Answer, Refusal> {
    let asked: Prune = parse(body)?;
    let task = Arc::clone(server);
    let dropped = to_the_end(async move {
        let lookups = Arc::clone(&task);
        let (keep, forget) =
            blocking(move || Ok((lookups.lookups.to_keep(&asked)?, asked.forget))).await?;
        task.sealed.prune(keep, forget).await
    })
    .await?;
    if dropped > 0 {
        info!("{dropped} retired values were dropped");
    }
    Ok(json(&Pruned { dropped }))
}

async fn invalidate(server: &Arc<Server>, body: &[u8]) -> Result<Answer, Refusal> {
    let asked: Invalidate = parse(body)?;
    let name = SecretName::parse(&asked.id)
        .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "bad_id", &e))?;
    let task = Arc::clone(server);
    let dropped = to_the_end(async move { Ok(task.lookups.invalidate(&name).await) })
        .await?
        .map_err(|missing| Refusal::missing(&asked.id, &missing))??;
    Ok(json(&Invalidated { dropped }))
}
