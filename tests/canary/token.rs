//! The PIN: to the token, and nowhere else.

use std::path::PathBuf;

use psi_test_support::marks::Kind;
use psi_test_support::token::Module;

use crate::memory::{held, is_only_configuration, unprotected};
use crate::world::World;

/// A token whose PIN is marked, which the configuration has.
fn plugged_in(world: &World) -> Module {
    let module = Module::with_key("psi", &world.secrets.pin);
    let place = |file: PathBuf| file.display().to_string();
    let config = world.common() + "cache: {backend: hsm}\n";
    let config = config.replace(&place(world.module()), &place(module.library()));
    world.host.write_config(&config);
    world.host.remove_credential("psi-cache-key");
    module
}

#[test]
fn a_pin_is_shown_neither_where_it_works_nor_where_it_is_rejected() {
    let mut world = World::new();
    let module = plugged_in(&world);
    world.cachectl(&["init", "--backend", "hsm"], b"").ended(0);
    let value = world.value("a sealed value");
    let serve = world.serve();
    let ids = world.hand_over(&[("A", &value)]);
    serve.sigterm();
    serve.restart();
    world.settle();
    assert_eq!(world.secret("lookup", &ids[0], b"").ended(0).stdout, value);
    world.cachectl(&["slots", "test"], b"").ended(0);
    module.control("fail.C_Decrypt", "48");
    world.cachectl(&["slots", "test"], b"").ended(69);
    module.release("fail.C_Decrypt");
    module.pull();
    world.cachectl(&["slots", "test"], b"").ended(69);
    module.plug_in();
    let wrong = world.marks.text(Kind::Pin, "a wrong PIN");
    world.deliver("hsm-pin", wrong.as_bytes());
    serve.sigterm();
    serve.restart();
    world.settle();
    let said = world.journal.of_event("SLOT_NOT_OPENED");
    let is_of_pin = |message: &String| message.contains("CKR_PIN_INCORRECT");
    let mut messages = said.iter().filter_map(|entry| entry.get("MESSAGE"));
    assert!(messages.any(is_of_pin), "{said:?}");
    world.cachectl(&["slots", "test"], b"").ended(69);
    serve.sigterm();
    world.cachectl(&["slots", "test"], b"").ended(69);
    world.keeps_its_secrets();
}

/// The module has copies of its own once it was given a PIN, so this one gives up before it looks.
#[test]
fn after_a_login_the_pin_is_in_the_configuration_only() {
    let mut world = World::new();
    let module = plugged_in(&world);
    world.cachectl(&["init", "--backend", "hsm"], b"").ended(0);
    module.control("fail.C_Login", "5");
    let serve = world.serve();
    world.settle();
    assert_eq!(module.calls("C_Login"), 1);
    is_only_configuration(&held(serve.pid(), &world.marks, unprotected));
}
