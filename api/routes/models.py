"""Models, the files of their folders, and the logs of the attempts that made them."""

from fastapi import APIRouter
from fastapi.responses import FileResponse, PlainTextResponse, Response

from api.routes.errors import declared
from api.routes.parameters import AttemptNumber, FileName, JobId, ModelId, OpenDatabase, Tail
from api.services import files, outcome, viewing
from nas.errors import NotFoundError
from nas.views import ModelView

router = APIRouter(prefix="/v1")


@router.get("/models", tags=["models"], summary="List models", responses=declared())
def list_models(database: OpenDatabase) -> list[ModelView]:
    """The models of all searches, with the files of each."""
    with database.reading() as session:
        return outcome.models(session, None)


@router.get("/models/{model_id}", tags=["models"], summary="Look at a model", responses=declared(404))
def read_model(model_id: ModelId, database: OpenDatabase) -> ModelView:
    """A model, where it came from, and its files."""
    with database.reading() as session:
        return outcome.model(session, model_id)


@router.get(
    "/models/{model_id}/files/{file_name}",
    tags=["models"],
    summary="Download a file of a model",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The file."}, **declared(404)},
)
def download_model_file(model_id: ModelId, file_name: FileName, database: OpenDatabase) -> FileResponse:
    """One of the files that the model lists, held against its manifest first; ranges are answered."""
    with database.reading() as session:
        model = outcome.model(session, model_id)
    path = files.verified(_address_of(model, file_name))
    return FileResponse(path, filename=file_name, media_type="application/octet-stream")


@router.get(
    "/jobs/{job_id}/attempts/{number}/log",
    tags=["jobs"],
    summary="Read the log of an attempt",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {}}, "description": "The last lines; empty if none yet."},
        **declared(404),
    },
)
def read_log(job_id: JobId, number: AttemptNumber, database: OpenDatabase, tail: Tail = 1000) -> PlainTextResponse:
    """What the attempt printed: its last `tail` lines, and of those at most the last 8 MB."""
    with database.reading() as session:
        folder = viewing.attempt_folder(session, job_id, number)
    return PlainTextResponse(files.last_lines(f"{folder}/log.txt", tail))


def _address_of(model: ModelView, name: str) -> str:
    """Where a listed file is. Raises NotFoundError for any other name, and for what leads out of the folder."""
    names = [file.name for file in model.files]
    if name in names and (address := files.file_below(model.folder, name)) is not None:
        return address
    raise NotFoundError(
        "file", name, f"is not a file of model {model.id}", ", ".join(names) or "none, its folder is gone"
    )
