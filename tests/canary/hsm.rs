//! psi-hsm: values on their way to a token and back, and the PIN.

use std::fs;

use psi_test_support::marks::Kind;
use psi_test_support::token::Module;

use crate::world::World;

/// A token that takes the PIN that is configured.
fn with_token() -> (World, Module) {
    let world = World::new();
    let module = Module::with_key("psi", &world.secrets.pin);
    let beside = module.library();
    fs::copy(&beside, world.module()).unwrap();
    let conf = beside.with_file_name("kryoptic.conf");
    fs::copy(conf, world.host.path("kryoptic.conf")).unwrap();
    (world, module)
}

#[test]
fn a_value_goes_from_standard_input_to_the_token_and_back() {
    let (mut world, module) = with_token();
    let (old, new) = (world.value("the old value"), world.value("the new value"));
    world.hsm(&["init"], b"").ended(0);
    world.hsm(&["store", "db"], old.as_bytes()).ended(0);
    world
        .hsm(&["store", "db"], (new.clone() + "\n").as_bytes())
        .ended(0);
    world
        .hsm(&["store", "keytab"], (new.clone() + "\0").as_bytes())
        .ended(0);
    let too_large = old.clone() + &"x".repeat(400_000);
    world
        .hsm(&["store", "large"], too_large.as_bytes())
        .ended(1);
    // What somebody types who takes the value for the name.
    world.hsm(&["store", "a b"], new.as_bytes()).ended(64);
    for command in ["list", "status", "test-pin"] {
        world.hsm(&[command], b"").ended(0);
    }
    let serve = world.serve();
    assert_eq!(
        world.secret("lookup", "db", b"").ended(0).stdout,
        new.clone() + "\n"
    );
    world.hsm(&["preflight"], b"").ended(0);
    fs::write(
        world.host.state_dir().join("bad"),
        r#"{"provider":"nitrokeyhsm","blob":"QUFB"}"#,
    )
    .unwrap();
    world.secret("lookup", "bad", b"");
    module.pull();
    fs::write(world.host.path("gone"), "").unwrap();
    world.secret("lookup", "keytab", b"");
    world.hsm(&["preflight"], b"").ended(1);
    serve.sigterm();
    world.keeps_its_secrets();
}

#[test]
fn a_pin_that_is_wrong_is_not_shown() {
    let (mut world, _module) = with_token();
    let value = world.value("the value");
    world.hsm(&["init"], b"").ended(0);
    world.hsm(&["store", "db"], value.as_bytes()).ended(0);
    let wrong = world.marks.text(Kind::Pin, "the wrong PIN");
    world.deliver("hsm-pin", wrong.as_bytes());
    for command in ["test-pin", "preflight", "status", "init"] {
        world.hsm(&[command], b"");
    }
    let serve = world.serve();
    world.secret("lookup", "db", b"");
    serve.sigterm();
    world.keeps_its_secrets();
}
