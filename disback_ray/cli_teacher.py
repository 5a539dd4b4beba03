"""`disback-ray teacher …`: thin, as all of the command line."""

from typing import Annotated

import typer

teacher_app = typer.Typer(
    help="Teachers of your own: `teacher train` makes one from images.", rich_markup_mode=None, no_args_is_help=True
)


@teacher_app.callback()
def teacher() -> None:
    """Teachers of your own: `teacher train` makes one from images."""


@teacher_app.command()
def train(
    data: Annotated[
        str, typer.Option(help="Images: a folder, a .zip, or a .parquet file (or a folder of such) as Hugging Face has them.")
    ],
    resolution: Annotated[int, typer.Option(help="Pixels a side: the centre square of each image, Lanczos-resized.")],
    steps: Annotated[int | None, typer.Option(help="Of training; 100,000 by default.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, of all workers together; 128 by default.")] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate; 2e-4 by default.")] = None,
    channels: Annotated[int | None, typer.Option(help="The DDPM++ network's width; 128 by default.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Residual blocks a resolution; 4 by default.")] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of the weights' moving average, which is the teacher; 0.9999 by default.")
    ] = None,
    cond: Annotated[
        bool, typer.Option("--cond/--uncond", help="With the images' labels: folder names, dataset.json, or a column.")
    ] = False,
    label_dropout: Annotated[float | None, typer.Option(help="With --cond: how often a label is hidden; 0 by default.")] = None,
    grey: Annotated[bool, typer.Option("--grey", help="One channel instead of three.")] = False,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out images that can't be read, and count them.")
    ] = False,
    pictures_every: Annotated[int | None, typer.Option(help="Steps between two grids of samples; ten grids by default.")] = None,
    cluster: Annotated[str | None, typer.Option(help="cluster.yaml; default: a private Ray here.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Of Ray Train; default: roles.teacher_trainer.replicas of the cluster file.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="The teacher's folder or URI; used again, the training goes on.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key, such as teacher.network.multipliers=[1,2,2], or cluster.KEY."),
    ] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help="No Ray: in this process; the same weights.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier training left in the folder.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train an EDM teacher on images of your own. Ctrl-C keeps what is done; the same command goes on."""
    from disback_ray.teaching import train_teacher

    done = train_teacher(
        data, resolution=resolution, steps=steps, batch=batch, lr=lr, channels=channels, blocks=blocks, ema=ema, conditional=cond,
        label_dropout=label_dropout, grey=grey, skip_corrupt=skip_corrupt, pictures_every=pictures_every, cluster=cluster,
        workers=workers, out=out, seed=seed, overrides=set_ or [], in_process=in_process, fresh=fresh, progress=True,
    )  # fmt: skip
    found, where = done.summary["data"], done.folder.uri
    left_out = f", {len(found['corrupt'])} corrupt ones left out" if found["corrupt"] else ""
    images = f"{found['count']} images of {len(found['classes'])} classes" if found["classes"] else f"{found['count']} images"
    print(f"{done.summary['status']} in {done.summary['seconds']:.0f} s, on {images}{left_out}")
    print(f"look: {where}/samples, disback-ray sample {where}")
    mine = f"teacher: {{checkpoint: {where}, format: denoiser}} and data: {{kind: none}}"
    print(f"distil: in a recipe of your own (`disback-ray recipes show ffhq64-edm > mine.yaml`), {mine}")
