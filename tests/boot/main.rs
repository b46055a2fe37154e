//! The shipped units on a booted machine: Debian 13 with its systemd, Podman and a software TPM.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod callers;
mod cold_boot;
mod container;
mod image;
mod in_use;
mod lookups;
mod machine;
mod migration;
mod migration_container;
mod readme;
mod removal;
mod story;
mod token;
mod trouble;

use machine::Machine;

/// The steps in their order, each with its name.
macro_rules! tell {
    ($machine:expr; $($step:path),* $(,)?) => {
        $(
            println!("{}", stringify!($step));
            $step(&mut $machine);
        )*
    };
}

#[test]
fn a_machine_is_set_up_and_lives_through_what_may_come() {
    let mut machine = Machine::boot();
    tell![machine;
        story::the_readme_sets_it_up,
        story::what_the_readme_says_to_run_by_hand_runs,
        story::the_setup_unit_writes_elsewhere_once_a_drop_in_says_so,
        story::psi_serve_runs_as_its_own_user_and_owns_its_files,
        story::a_reboot_keeps_the_secrets,
        story::a_reboot_in_an_outage_starts_the_workload_from_the_cache,
        story::a_stopped_service_leaves_a_socket_that_works,
        story::a_reload_keeps_serving_even_if_the_new_configuration_is_wrong,
        callers::a_listed_user_looks_up_once_the_socket_lets_the_group_in,
        story::a_new_socket_token_fails_no_lookup,
        story::the_journal_says_what_to_do_about_a_failed_lookup,
        story::a_hundred_kills_stop_neither_the_socket_nor_a_lookup,
        story::a_firmware_update_leaves_the_other_slot_and_the_tpm_is_sealed_to_again,
        story::what_an_outage_keeps_back_comes_by_itself_and_holds_up_nobody_else,
        story::the_journal_has_no_secret,
    ];
}

#[test]
fn a_machine_whose_cache_a_credential_opens_is_set_up_and_reboots() {
    let mut machine = Machine::boot();
    tell![machine;
        story::the_page_sets_it_up_with_a_credential,
        story::a_reboot_keeps_the_secrets,
        story::a_reboot_in_an_outage_starts_the_workload_from_the_cache,
        story::the_journal_has_no_secret,
    ];
}

#[test]
fn a_machine_in_use_is_restarted_upgraded_and_rotated() {
    let mut machine = Machine::boot();
    tell![machine;
        story::the_readme_sets_it_up,
        in_use::all_of_it_is_enabled,
        in_use::restarts_kills_and_upgrades_fail_none_of_a_thousand_lookups,
        in_use::twenty_refreshes_change_neither_a_workloads_health_nor_a_secrets_id,
        in_use::the_timer_brings_one_rotated_value_after_the_other_into_memory,
        cold_boot::a_cold_boot_reaches_the_workloads_in_one_go,
        cold_boot::an_outage_makes_the_workloads_15_s_later_at_most,
        removal::uninstalled_it_is_stopped_and_keeps_secrets_and_state,
        removal::purged_it_has_neither_secrets_nor_state,
        story::the_journal_has_no_secret,
    ];
}

#[test]
fn a_machine_runs_psi_from_an_image() {
    let mut machine = Machine::boot();
    tell![machine;
        container::the_image_is_built_over_an_imported_debian,
        container::the_page_gives_the_example_workloads_their_secrets,
        container::psi_serve_has_no_more_power_than_without_a_container,
        container::a_reload_is_waited_for_and_keeps_the_process,
        container::what_it_says_is_in_the_hosts_journal_once,
        container::restarts_kills_and_other_images_fail_none_of_a_thousand_lookups,
        container::an_image_of_a_newer_release_is_refused_and_changes_nothing,
        container::a_refresh_brings_another_value_into_memory,
        container::a_reboot_in_an_outage_brings_everything_back,
        removal::the_image_uninstalls_itself_and_keeps_secrets_and_state,
        removal::purged_from_the_image_it_has_neither_secrets_nor_state,
        story::the_journal_has_no_secret,
    ];
}

#[test]
fn a_machine_of_the_python_program_is_moved_over_and_back() {
    let mut machine = Machine::boot();
    tell![machine;
        migration::the_python_program_was_here,
        migration::the_page_brings_the_old_values_back_while_the_provider_is_down,
        migration::every_secret_has_its_old_value,
        migration::the_page_registers_everything_anew_and_a_reboot_has_it_all,
        migration::every_secret_has_its_new_value_and_one_registration,
        migration::nothing_needs_what_the_page_removes_at_last,
        migration::the_way_back_leaves_what_the_python_program_had,
        story::the_journal_has_no_secret,
    ];
}

#[test]
fn a_machine_of_the_python_program_in_containers_is_moved_over_and_back() {
    let mut machine = Machine::boot();
    tell![machine;
        container::the_image_is_built_over_an_imported_debian,
        migration::the_python_program_was_here,
        migration_container::it_ran_in_containers,
        migration_container::psi_install_refuses_to_go_on_beside_its_quadlets,
        migration_container::the_page_brings_the_old_values_back,
        migration::every_secret_has_its_old_value,
        migration_container::the_page_registers_everything_anew,
        migration::every_secret_has_its_new_value_and_one_registration,
        migration_container::nothing_needs_what_the_page_removes,
        migration_container::the_way_back_has_the_old_quadlets,
        story::the_journal_has_no_secret,
    ];
}

#[test]
fn a_machine_in_trouble_says_what_mends_it() {
    let mut machine = Machine::boot();
    tell![machine;
        story::the_readme_sets_it_up,
        trouble::psi_secret_is_missing,
        trouble::podmans_socket_is_absent,
        trouble::the_state_directory_is_unwritable,
        trouble::a_credential_is_missing,
        trouble::a_credential_can_not_be_decrypted,
        trouble::the_cache_is_of_another_backend,
        trouble::a_slow_token_holds_up_verify_and_not_status,
        story::the_journal_has_no_secret,
    ];
}

#[test]
fn a_machine_with_a_token_runs_psi_from_an_image() {
    let mut machine = Machine::boot();
    tell![machine;
        container::the_image_is_built_over_an_imported_debian,
        token::the_image_installs_itself,
        token::a_container_without_the_tokens_wiring_says_so,
        token::the_page_gives_workloads_their_values,
        token::a_start_that_is_given_too_little_time_says_so,
        token::a_reboot_keeps_them,
        token::a_reboot_in_an_outage_keeps_them,
        story::the_journal_has_no_secret,
    ];
}

/// With the device that the kernel makes of a TPM, and limits that hold.
#[test]
fn a_machine_with_a_kernel_of_its_own_seals_to_its_tpm() {
    let mut machine = Machine::emulate();
    tell![machine;
        story::the_readme_sets_it_up,
        story::psi_serve_runs_as_its_own_user_and_owns_its_files,
        story::the_tpm_is_opened_as_a_device_that_only_psi_serve_is_let_to,
        story::a_reboot_keeps_the_secrets,
        story::a_reboot_in_an_outage_starts_the_workload_from_the_cache,
        story::the_journal_has_no_secret,
    ];
}
