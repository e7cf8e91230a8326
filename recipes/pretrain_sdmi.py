"""Pretrain an image encoder by self-distillation (SDMI): two branches, a stop-gradient, the target moved in turn.

    accelerate launch recipes/pretrain_sdmi.py                          # the embedded corpus, minutes on a laptop
    accelerate launch recipes/pretrain_sdmi.py --dataset_name imagefolder --data_dir my_photos \\
        --method simsiam --encoder resnet50 --image_size 224 --output_dir runs/my_photos

`hf-mi-ssl methods` lists the rows, `--help` the flags. What it writes loads with `AutoModel.from_pretrained`.
"""

import sys
from pathlib import Path

from hf_mi_ssl.training import PretrainingArguments, run_recipe

CARD = Path(__file__).resolve().parent.parent / "model_cards" / "pretraining_card.md"


def main(args: PretrainingArguments) -> None:
    # What takes seconds to import, now that the arguments are known to be right.
    from hf_mi_ssl import SDMIConfig, SDMIForPreTraining
    from hf_mi_ssl.data import open_train_and_held_out, training_batches
    from hf_mi_ssl.distributed import globalize_batch_norm
    from hf_mi_ssl.encoders import checkpoint_activations, encoder_config, load_encoder
    from hf_mi_ssl.evaluation import Alarm, Evaluation, draw_figures, draw_maps, growth_verdicts, summary_table
    from hf_mi_ssl.hub import Publisher, dataset_license, export_encoder, export_pretraining, write_card
    from hf_mi_ssl.training import (
        DataState,
        Leaving,
        MetricsLog,
        Plan,
        Skips,
        TrainingState,
        Updates,
        announce,
        build_accelerator,
        build_optimizer,
        build_seeded,
        cosine_schedule,
        forward_backward,
        memory_of_all,
        read_records,
        results,
        seed_everything,
        set_schedules,
        step_record,
        write_json,
    )
    from hf_mi_ssl.views import RandomViews, view_recipes

    # Build: the row and its encoder, the images, the optimiser. All of it is a function of the arguments.
    initial = load_encoder(args.init_from) if args.init_from else None
    encoder = initial.config if initial else encoder_config(args.encoder, args.image_size)
    config = SDMIConfig.from_method(args.method, encoder_config=encoder, **args.columns)
    accelerator = build_accelerator(args, branches_take_turns=config.target == "gradient")
    hub = Publisher(args, accelerator.is_main_process)
    output_dir, device = Path(args.output_dir), accelerator.device
    named = {"bad_list": output_dir / "bad_images.jsonl", "speaks": accelerator.is_main_process}
    named |= {"memory_limit": memory_of_all(), "device": device}
    train, held = open_train_and_held_out(**args.data_arguments(), **named)
    plan = Plan(args, train.num_images, accelerator.num_processes)
    model = globalize_batch_norm(build_seeded(args.seed, SDMIForPreTraining, config))
    if initial:
        model.start_from(initial)
    model.check_images(args.image_size, args.local_view_size, args.per_device_train_batch_size)
    if args.gradient_checkpointing:
        for branch, _ in model.branches.values():
            checkpoint_activations(branch)
    optimizer = build_optimizer(model, args)

    # Prepare: what runs, what it goes on from, what watches it. `model` stays the plain model inside `network`.
    network, optimizer = accelerator.prepare(model, optimizer)
    data, recipes = DataState(train, held), view_recipes(args.views, args.image_size)
    views = RandomViews(recipes, args.seed, args.local_views, args.local_view_size, args.views_batch_size)
    found = data.identity | {"views_by": views.made_by(device), "mixed_precision": accelerator.mixed_precision}
    state = TrainingState(args, plan, accelerator, found, model=model, optimizer=optimizer, data=data)
    start = state.resume(args.resume_from_checkpoint)
    alarm = Alarm(config, plan.steps, plan.global_batch)
    log = MetricsLog(output_dir / "metrics.jsonl", start, accelerator, alarm, Skips(plan))
    leaving = Leaving(args.max_hours, args.process_timeout)  # as soon as it is asked to
    evaluation = Evaluation(train, held, recipes, args.seed, before_each=leaving.interrupt)
    announce(args, plan, accelerator, model, train, held, start)
    hub.revise(plan.revision(start), model.encoder, recipes[0])  # the run may have died before it had
    log.evaluate(start, plan, evaluation, model)

    # Train: θ ascends L = J − M with ξ fixed, then ξ moves.
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = training_batches(train, plan.batches_from(start), plan.global_batch, args.seed, rank, world)
    updates = Updates(accelerator, model, optimizer, args.max_grad_norm)
    for step in leaving.steps(start, plan.steps, log, state):
        seed_everything(args.seed, step)
        learning_rate = set_schedules(optimizer, plan, step)
        pairs = views.of_step(plan.take(batches))
        for phase in model.phases_at(step):
            updates.begin()
            for pair in pairs:
                with accelerator.accumulate(network):
                    outputs = forward_backward(accelerator, network, pair, args.per_device_train_batch_size, phase)
                    updates.step(outputs.loss)
        model.update_target(cosine_schedule(step, plan.steps, config.target_momentum, config.target_momentum_end))
        done = step + 1
        log.step(step_record(done, plan, outputs, learning_rate), plan.images_per_step, updates.take_skipped())
        if plan.checkpoints(done):
            log.flush()
            state.save(done)
        hub.revise(plan.revision(done), model.encoder, recipes[0])
        log.evaluate(done, plan, evaluation, model)

    # Publish: everything that loads elsewhere, then what came out beside pixels and the same encoder at random.
    if accelerator.is_main_process:
        export_encoder(model.encoder, output_dir, image_size=args.image_size, mean=recipes[0].mean, std=recipes[0].std)
        export_pretraining(model, output_dir)
    trained, random = model.branches, build_seeded(args.seed, SDMIForPreTraining, config).to(device).branches
    random = evaluation.with_statistics(random)
    evaluations, errors = evaluation.measure(trained, random, mutual_information=args.mi_steps != 0)
    embedded = {name: evaluation.embed_clean(b) for name, b in (("random", random), ("trained", trained))}
    bad_images = data.bad_images()
    if accelerator.is_main_process:
        measured = results(args, plan, accelerator, log, evaluations) | {"bad_images": bad_images}
        errors = {} if initial else errors  # those of a start at random
        measured["growth"] = growth_verdicts(read_records(log.path), errors, alarm.collapsed)
        measured |= {"row": config.facts, "dataset_license": dataset_license(args.dataset_name)}
        write_json(output_dir / "results.json", measured)
        figures, title = output_dir / "figures", f"{args.method} on {Path(args.dataset_name).name}"
        draw_figures(read_records(log.path), figures, title)
        draw_maps(embedded, evaluation.pairs, figures, title, args.draws_images)
        write_card(output_dir, CARD)
        print(summary_table(measured), data.summary(), f"\nwritten to {output_dir}")
    accelerator.end_training()
    hub.finish()


if __name__ == "__main__":
    sys.exit(run_recipe(main, __doc__, method="sdmi_ema"))
