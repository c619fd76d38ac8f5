"""Every kind of bad input that edgebench promises to refuse, and the tests that hold it to that.

The test here fails where a named test is gone, so that none of these promises can be lost by renaming.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

BAD_INPUT: dict[str, tuple[str, ...]] = {
    # the model
    "not a file": (
        "model/test_file.py::test_a_missing_file_is_the_users",
        "model/test_file.py::test_a_folder_is_no_file",
        "cli/test_inspect.py::test_what_is_no_sound_model",
    ),
    "not ONNX": (
        "model/test_file.py::test_what_is_not_onnx_is_named",
        "model/test_file.py::test_random_bytes_are_never_a_model",
        "cli/test_inspect.py::test_what_is_no_sound_model",
    ),
    "truncated": (
        "model/test_file.py::test_a_truncated_file_says_so",
        "model/test_file.py::test_mutated_files_give_our_errors_or_a_model",
        "cli/test_inspect.py::test_what_is_no_sound_model",
    ),
    "0 bytes": (
        "model/test_file.py::test_an_empty_file_says_so",
        "cli/test_inspect.py::test_what_is_no_sound_model",
    ),
    "wrong opset": (
        "model/test_checks.py::test_an_impossible_opset_is_refused",
        "model/test_checks.py::test_an_operator_newer_than_the_opset_is_named",
        "cli/test_inspect.py::test_what_is_no_sound_model",
    ),
    "external data missing": (
        "model/test_file.py::test_missing_external_data_is_named",
        "cli/test_inspect.py::test_what_is_no_sound_model",
    ),
    "external data outside the model's folder": (
        "model/test_file.py::test_external_data_outside_the_folder_is_never_read",
        "model/test_file.py::test_a_link_out_of_the_folder_is_never_followed",
        "cli/test_inspect.py::test_what_is_no_sound_model",
    ),
    "dynamic shape without --shape": (
        "model/test_canonical.py::test_an_unknown_size_asks_for_the_option_to_type",
        "cli/test_convert.py::test_an_open_shape_must_be_given",
        "cli/test_run.py::test_an_open_shape_needs_its_flag",
    ),
    "unsupported operator": (
        "convert/test_converters.py::test_openvino_names_the_operator_it_lacks",
        "cli/test_convert.py::test_an_operator_that_the_runtime_lacks_is_named",
        "cli/test_convert.py::test_an_operator_that_onnx_does_not_know_is_named",
    ),
    "NaN outputs": (
        "test_parity.py::test_a_broken_reference_is_the_models_fault",
        "test_parity.py::test_a_broken_candidate_does_not_pass",
        "cli/test_convert.py::test_nan_outputs_are_the_models_fault",
    ),
    # the network
    "a cycle, a name made twice, a missing weight": (
        "model/test_checks.py::test_a_bad_network_is_refused_with_a_hint",
        "cli/test_bad_networks.py::test_every_command_refuses_it",
    ),
    "nodes of one name": ("model/test_canonical.py::test_twins_get_a_number_and_onnx_has_one_name",),
    "an absurd shape": (
        "model/test_checks.py::test_a_bad_network_is_refused_with_a_hint",
        "model/test_checks.py::test_a_vector_of_half_a_billion_elements_takes_no_memory",
        "cli/test_bad_networks.py::test_every_command_refuses_it",
    ),
    "control flow": (
        "model/test_checks.py::test_branches_are_checked_too",
        "convert/test_converters.py::test_ncnn_refuses_with_the_reason",
    ),
    "a custom domain": (
        "model/test_checks.py::test_a_bad_network_is_refused_with_a_hint",
        "model/test_checks.py::test_an_operator_that_onnxruntime_does_not_bring_is_named",
        "cli/test_bad_networks.py::test_every_command_refuses_it",
    ),
    "strings, sequences, sparse tensors": (
        "model/test_checks.py::test_a_bad_network_is_refused_with_a_hint",
        "model/test_checks.py::test_a_weight_of_strings_is_refused",
        "cli/test_bad_networks.py::test_every_command_refuses_it",
    ),
    "sizes of zero": ("cli/test_bad_networks.py::test_nothing_inside_a_network_is_computed_or_refused",),
    "unnamed nodes": (
        "model/test_checks.py::test_unnamed_nodes_are_called_by_their_output",
        "cli/test_bad_networks.py::test_what_onnxruntime_cannot_run_is_told_by_node_without_its_paths",
    ),
    "a network broken at random": (
        "model/test_file.py::test_mutated_files_give_our_errors_or_a_model",
        "convert/test_mutations.py::test_a_broken_network_is_refused_or_holds",
    ),
    "a network without end": (
        "cli/test_crashes.py::test_a_hang_ends_at_the_time_limit",
        "model/test_definition.py::test_what_does_not_end_or_takes_all_memory_is_the_models_error",
    ),
    "a runtime that crashes": (
        "cli/test_crashes.py::test_a_crash_is_the_models_refusal_and_the_session_lives_on",
        "cli/test_crashes.py::test_a_crash_is_told_with_its_log",
    ),
    # words
    "unknown runtime": (
        "cli/test_convert.py::test_unknown_words_name_the_nearest",
        "cli/test_run.py::test_wrong_words",
    ),
    "unknown precision": (
        "cli/test_convert.py::test_unknown_words_name_the_nearest",
        "cli/test_run.py::test_wrong_words",
    ),
    "unknown device": (
        "test_inventory.py::test_an_unknown_device_says_what_there_is",
        "cli/test_lists.py::test_an_unknown_device_names_the_nearest",
        "boards/test_runs.py::test_an_artifact_is_verified_on_a_board",
    ),
    "a selector that matches nothing": (
        "test_inventory.py::test_a_selector_that_matches_nothing_says_what_there_is",
        "cli/test_run.py::test_wrong_words",
        "cli/test_lists.py::test_an_unknown_device_names_the_nearest",
    ),
    # documents
    "inventory with an unknown key, a wrong type, a duplicate device": (
        "test_inventory.py::test_refuses_in_these_words",
        "test_inventory.py::test_damaged_inventories_never_end_in_a_traceback",
        "cli/test_lists.py::test_wrong_inventories",
    ),
    "target with an unknown key or a wrong type": (
        "test_targets.py::test_refuses_in_these_words",
        "test_targets.py::test_damaged_targets_never_end_in_a_traceback",
        "cli/test_lists.py::test_a_wrong_target_is_told_with_line_and_nearest_key",
        "cli/test_lists.py::test_wrong_targets",
    ),
    "plan with an unknown key": ("cli/test_run.py::test_a_wrong_plan_names_line_and_nearest_key",),
    "YAML bomb": (
        "test_documents.py::test_a_yaml_bomb_is_refused_at_its_first_anchor",
        "cli/test_lists.py::test_wrong_inventories",
        "cli/test_lists.py::test_wrong_targets",
    ),
    # measurements from elsewhere, and verdicts
    "empty launches": (
        "gates/test_gate.py::test_data_that_says_little_never_passes_by_itself",
        "cli/test_gate_bad_input.py::test_empty_launches",
    ),
    "one sample": (
        "gates/test_gate.py::test_data_that_says_little_never_passes_by_itself",
        "cli/test_gate_bad_input.py::test_one_sample",
    ),
    "identical samples": (
        "test_comparison.py::test_launches_without_any_spread_are_compared_with_the_limit",
        "gates/test_gate.py::test_data_that_says_little_never_passes_by_itself",
        "cli/test_gate_bad_input.py::test_identical_samples",
        "cli/test_gate_bad_input.py::test_a_baseline_of_identical_samples",
    ),
    "negative or absurd times": (
        "test_exchange.py::test_numbers_that_cannot_be_are_named_with_their_place",
        "cli/test_gate_bad_input.py::test_times_that_cannot_be_or_a_clock_going_back",
    ),
    "mixed units": (
        "gates/test_gate.py::test_data_that_says_little_never_passes_by_itself",
        "cli/test_gate_bad_input.py::test_mixed_units",
    ),
    "a clock going back": ("cli/test_gate_bad_input.py::test_times_that_cannot_be_or_a_clock_going_back",),
    "NaN": (
        "test_exchange.py::test_what_is_no_number_is_refused",
        "cli/test_gate_bad_input.py::test_what_is_no_number",
    ),
    "ten million samples": ("cli/test_gate_bad_input.py::test_ten_million_samples",),
    "contradictory budgets": (
        "test_budgets.py::test_two_budgets_for_the_same_cells_must_not_contradict_each_other",
        "cli/test_gate_bad_input.py::test_contradictory_budgets",
    ),
    "a baseline with other inputs or batch size": (
        "gates/test_gate.py::test_what_was_measured_otherwise_is_not_comparable",
        "cli/test_gate_bad_input.py::test_a_baseline_with_other_inputs_or_batch",
    ),
    "a truncated or newer file of measurements": (
        "test_exchange.py::test_what_is_no_file_of_measurements_is_refused",
        "cli/test_gate.py::test_a_file_that_cannot_be_judged_is_refused",
        "cli/test_gate_bad_input.py::test_a_truncated_or_newer_file",
    ),
    "a tampered bundle": (
        "test_evidence.py::test_a_changed_byte_is_refused_or_changes_no_content",
        "test_evidence.py::test_members_and_manifest_must_fit",
        "test_evidence.py::test_another_verdict_than_the_stored_one_names_the_first_cell",
        "cli/test_replay.py::test_a_changed_or_truncated_bundle_is_refused",
    ),
    "a bundle that is a bomb, cut off or newer, or names other files": (
        "test_evidence.py::test_a_truncated_bundle_is_refused",
        "test_evidence.py::test_a_bomb_is_not_unpacked",
        "test_evidence.py::test_a_bomb_that_lies_about_its_size_is_refused",
        "test_evidence.py::test_a_directory_without_end_is_not_read",
        "test_evidence.py::test_unknown_names_are_refused_and_never_written",
        "test_evidence.py::test_a_missing_member_is_named",
        "test_evidence.py::test_a_newer_schema_says_so",
        "test_evidence.py::test_nonsense_in_a_member_is_refused",
    ),
    # the way to the device
    "unreachable host": (
        "transport/test_ssh.py::test_a_cut_cable",
        "transport/test_ssh.py::test_a_name_that_cannot_resolve",
        "boards/test_runs.py::test_an_unreachable_board",
    ),
    "refused port": (
        "transport/test_ssh.py::test_a_refused_port",
        "boards/test_runs.py::test_a_refused_port",
    ),
    "wrong host key": (
        "transport/test_ssh.py::test_a_wrong_host_key_is_never_accepted",
        "boards/test_runs.py::test_a_wrong_host_key_fails_that_board_alone",
    ),
    "unknown host key": (
        "transport/test_ssh.py::test_a_device_without_a_pinned_key_is_refused",
        "boards/test_runs.py::test_a_board_without_a_pinned_key_is_not_even_tried",
    ),
    "bad login": (
        "transport/test_ssh.py::test_a_refused_login_names_user_and_keys_but_no_secret",
        "transport/test_ssh.py::test_an_unknown_user_is_refused",
        "boards/test_runs.py::test_a_bad_login",
        "boards/test_runs.py::test_a_key_file_that_is_not_there",
    ),
    # the device
    "no Python on the device": ("boards/test_runs.py::test_a_board_without_python",),
    "disk full on the device": (
        "transport/test_ssh.py::test_a_full_disk_is_named_with_numbers",
        "probe/test_store.py::test_a_full_disk_is_no_space",
        "boards/test_runs.py::test_a_full_disk",
        "boards/test_runs.py::test_a_disk_too_small_for_the_runtime",
    ),
    "probe killed mid-launch": (
        "probe/test_launch.py::test_a_kill_from_outside_is_not_blamed_on_memory",
        "boards/test_runs.py::test_a_killed_probe_costs_one_launch_and_the_run_goes_on",
        "boards/test_runs.py::test_a_killed_launch_is_tried_again",
        "boards/test_runs.py::test_a_launch_that_is_killed_again_and_again_is_the_devices_failure",
    ),
    "garbage from the probe": (
        "device/test_wire.py::test_arbitrary_bytes_give_messages_or_device_errors",
        "boards/test_runs.py::test_garbage_in_the_place_of_the_probe",
        "boards/test_runs.py::test_garbage_between_the_probes_words",
        "boards/test_runs.py::test_terminal_escapes_from_a_board_never_reach_the_terminal",
    ),
    "endless output from the probe": (
        "device/test_wire.py::test_endless_noise_before_hello_is_an_error",
        "device/test_wire.py::test_an_endless_line_is_an_error",
        "transport/test_alike.py::test_endless_output_ends_at_the_deadline",
        "boards/test_runs.py::test_garbage_in_the_place_of_the_probe",
    ),
    # recipes
    "a recipe with an unknown step or option, or in an impossible order": (
        "compress/test_recipes.py::test_what_is_no_recipe_is_told_with_its_line",
        "compress/test_recipes.py::test_any_list_of_steps_is_understood_or_refused",
        "cli/test_compress.py::test_recipes_that_are_none",
    ),
    "a factory that raises, or returns the wrong thing": (
        "compress/training/test_bad_input.py::test_a_factory_that_raises_is_blamed_by_line",
        "compress/training/test_bad_input.py::test_what_a_factory_has_wrong_is_told_before_training",
    ),
    "a loader with wrong shapes, or empty": (
        "compress/training/test_bad_input.py::test_what_a_factory_has_wrong_is_told_before_training",
    ),
    "a loss that is no number": (
        "compress/training/test_checkpoints.py::test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_epoch",
    ),
    "a network that cannot be pruned": (
        "compress/training/test_bad_input.py::test_a_network_that_cannot_be_pruned_is_told_by_layer_and_reason",
        "compress/training/test_bad_input.py::test_shuffled_channels_are_told_by_layer",
    ),
    "training that was interrupted": (
        "compress/training/test_checkpoints.py::test_interrupted_training_ends_with_the_same_file",
    ),
    "a disk that is full while compressing": (
        "cli/test_compress.py::test_a_full_disk_is_told_and_leaves_nothing",
        "compress/training/test_checkpoints.py::test_a_full_disk_stops_and_what_was_done_is_gone_on_with",
    ),
    "samples that a factory shares with a recipe's files": (
        "compress/training/test_recipes.py::test_files_of_a_recipe_share_no_sample_with_other_sets_of_the_factory",
    ),
    "calibration samples of another shape, in a recipe": (
        "cli/test_compress.py::test_samples_that_do_not_fit_are_named",
    ),
    "boxes that are none": ("test_detection.py::test_what_is_no_box_is_refused",),
    "training steps without a factory": ("cli/test_compress.py::test_training_steps_name_what_they_need",),
    "samples in two of the three sets": (
        "cli/test_compress.py::test_samples_in_two_sets_are_found",
        "cli/test_compress.py::test_calibrating_on_the_test_set_is_refused",
    ),
    "labels out of range": (
        "compress/test_weights.py::test_a_budget_of_accuracy_needs_labels_that_fit",
        "cli/test_compress.py::test_labels_beyond_the_classes_are_named",
    ),
    "a quantized model quantized again": (
        "compress/test_steps.py::test_nonsense_is_refused_with_a_way_out",
        "cli/test_compress.py::test_an_int8_file_is_not_quantized_again",
        "cli/test_compress.py::test_int8_of_an_int8_file_is_refused",
    ),
    "pictures and specs that are none": (
        "model/test_pictures.py::test_a_spec_that_does_not_fit_is_told",
        "model/test_pictures.py::test_folders_that_hold_no_set",
    ),
    # the user stops it
    "Ctrl-C": (
        "cli/test_run.py::test_a_stopped_run_cleans_up_and_continues",
        "cli/test_run.py::test_an_interrupt_while_preparing",
        "boards/test_runs.py::test_an_interrupted_run_leaves_the_boards_clean",
    ),
    "device busy": (
        "probe/test_session.py::test_one_lease_at_a_time",
        "cli/test_run.py::test_a_busy_device_is_75_and_names_the_holder_and_waiting_helps",
        "boards/test_runs.py::test_a_busy_board_is_75_and_waiting_helps",
    ),
    "a crash at any moment": (
        "store/test_store.py::test_a_killed_run_keeps_what_it_stored",
        "cli/test_run.py::test_a_killed_run_loses_only_the_launch_in_flight",
        "boards/test_runs.py::test_a_killed_controller_leaves_the_boards_clean",
    ),
}


@cache
def functions_of(file: str) -> frozenset[str]:
    """The names of the test functions of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("item", BAD_INPUT)
def test_bad_input_has_its_tests(item: str) -> None:
    for node in BAD_INPUT[item]:
        file, _, name = node.partition("::")
        assert (ROOT / file).is_file(), f"{item}: {file} is gone"
        assert name in functions_of(file), f"{item}: {node} is gone"
