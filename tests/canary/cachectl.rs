//! psi-cachectl: local values, printed keys and a TPM, with psi-serve and without.

use std::fs;

use psi_test_support::disk::SmallDisk;
use psi_test_support::swtpm::Swtpm;

use crate::world::World;

const RESEAL: [&str; 3] = ["slots", "reseal", "--recovery"];

fn configure_for(world: &mut World, tpm: &Swtpm) {
    let tcti = tpm.tcti();
    world.configure(&format!(
        "cache: {{backend: tpm, tpm: {{tcti: \"{tcti}\"}}}}\n"
    ));
}

#[test]
fn a_local_value_goes_from_standard_input_into_the_cache() {
    let mut world = World::new();
    let (old, new) = (world.value("the old value"), world.value("the new value"));
    let too_large = old.clone() + &"x".repeat(600_000);
    for runs in [false, true] {
        let serve = runs.then(|| world.serve());
        world.cachectl(&["put", "A"], old.as_bytes()).ended(0);
        world
            .cachectl(&["put", "A"], (new.clone() + "\n").as_bytes())
            .ended(0);
        world
            .cachectl(&["put", "B"], (new.clone() + "\0").as_bytes())
            .ended(0);
        world.cachectl(&["put", "C"], too_large.as_bytes()).ended(1);
        // What somebody types who takes the value for the name.
        world.cachectl(&["put", "a b"], new.as_bytes()).ended(64);
        world.cachectl(&["invalidate", "A"], b"");
        world.cachectl(&["rm", "A"], b"").ended(0);
        if let Some(serve) = serve {
            world.deliver("psi-socket-token", b"another-token.1");
            world.cachectl(&["put", "A"], old.as_bytes());
            serve.sigterm();
        }
    }
    world.keeps_its_secrets();
}

#[test]
fn a_value_that_can_not_be_kept_is_not_shown() {
    let mut world = World::new();
    let disk = SmallDisk::mount(&world.host.state_dir());
    let value = world.value("the value");
    world.cachectl(&["put", "A"], value.as_bytes()).ended(0);
    disk.fill();
    world.cachectl(&["put", "B"], value.as_bytes()).ended(74);
    disk.free();
    disk.make_read_only();
    world.cachectl(&["put", "B"], value.as_bytes()).ended(74);
    disk.make_writable();
    fs::write(world.host.cache_file(), b"PSIC\x02").unwrap();
    world.cachectl(&["put", "B"], value.as_bytes()).ended(65);
    world.keeps_its_secrets();
}

#[test]
fn a_printed_key_is_on_standard_output_and_nowhere_else() {
    for runs in [false, true] {
        let mut tpm = Swtpm::start();
        let mut world = World::new();
        world.host.remove_credential("psi-cache-key");
        configure_for(&mut world, &tpm);
        let serve = runs.then(|| world.serve());
        let init = ["init", "--backend", "tpm", "--recovery"];
        let printed = world.cachectl(&init, b"").ended(0);
        let key = world.mark_recovery_key(&printed);
        let value = world.value("the value");
        world.cachectl(&["put", "A"], value.as_bytes()).ended(0);
        let added = world.cachectl(&["slots", "add", "recovery"], b"").ended(0);
        world.mark_recovery_key(&added);

        let other = if key.starts_with('A') { "B" } else { "A" };
        let mistyped = format!("{other}{}", &key[1..]);
        for wrong in [&mistyped, &key[9..], &key[..20], &(key.clone() + &key)] {
            world.cachectl(&RESEAL, wrong.as_bytes()).ended(64);
        }
        world
            .cachectl(&["slots", "test", "--recovery"], key.as_bytes())
            .ended(0);

        if let Some(serve) = &serve {
            serve.sigterm();
        }
        tpm.restart_with("an update");
        world.cachectl(&["slots", "test"], b"").ended(69);
        if let Some(serve) = &serve {
            serve.restart();
            world.settle();
        }
        world.cachectl(&["put", "B"], value.as_bytes()).ended(69);
        world.cachectl(&RESEAL, mistyped.as_bytes()).ended(64);
        world.cachectl(&RESEAL, key.as_bytes()).ended(0);
        let removed = world.cachectl(&["slots", "remove", "3"], b"");
        world.mark_recovery_key(&removed.ended(0));
        tpm.stop();
        world.cachectl(&["slots", "test"], b"");
        world.cachectl(&RESEAL, key.as_bytes());
        if let Some(serve) = serve {
            serve.sigterm();
        }
        world.keeps_its_secrets();
    }
}
