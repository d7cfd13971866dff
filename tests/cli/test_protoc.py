"""Code generation: only what is stale, all that depends on it, errors with their place."""

import os
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from natsmesh.protoc import DESCRIPTORS, ProtoTree
from tests.cli.projects import edit, make_project


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProtoTree:
    folder = make_project(tmp_path, generate=False)
    monkeypatch.chdir(folder)
    other = folder / "proto/shop/v1/order.proto"
    imports = 'syntax = "proto3";\npackage shop.v1;\nimport "shop/v1/shop.proto";\n'
    other.write_text(imports + "message Order { PriceRequest wanted = 1; }\n")
    return ProtoTree(folder / "proto", folder / "gen")


async def test_generates_all_that_is_missing_and_then_nothing(tree: ProtoTree) -> None:
    outcome = await tree.generate(tree.stale())
    assert not outcome.errors
    assert {file.name for file in outcome.written} == {
        f"{stem}{suffix}" for stem in ("order", "shop") for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    }
    assert tree.stale() == []


async def test_only_code_that_differs_is_written(tree: ProtoTree) -> None:
    await tree.generate(tree.stale())
    file = tree.protos / "shop/v1/shop.proto"
    edit(file, "// Shop sells things.", "// Shop sells all things.")
    os.utime(file, (2e9, 2e9))
    assert tree.stale() == [file]
    assert [path.name for path in (await tree.generate(tree.stale())).written] == ["shop_pb2_grpc.py"]


async def test_who_imports_a_file_is_compiled_with_it(tree: ProtoTree) -> None:
    shop, order = tree.protos / "shop/v1/shop.proto", tree.protos / "shop/v1/order.proto"
    assert tree.with_importers([shop]) == [order, shop]
    assert tree.with_importers([order]) == [order]
    await tree.generate(tree.stale())
    edit(shop, "PriceRequest", "PriceQuery")
    outcome = await tree.generate(tree.with_importers([shop]))
    assert 'proto/shop/v1/order.proto:4:17: "PriceRequest" is not defined.' in outcome.errors
    assert "shop_pb2.py" in {path.name for path in outcome.written}, "what has no error does not wait"


async def test_an_error_has_its_place_and_leaves_the_code_alone(tree: ProtoTree) -> None:
    await tree.generate(tree.stale())
    before = {path: path.read_bytes() for path in tree.generated.rglob("*.py")}
    edit(tree.protos / "shop/v1/shop.proto", "rpc Price(", "rpc Price[")
    outcome = await tree.generate([tree.protos / "shop/v1/shop.proto"])
    assert outcome.errors.startswith("proto/shop/v1/shop.proto:8:")
    assert not outcome.written
    assert {path: path.read_bytes() for path in tree.generated.rglob("*.py")} == before


async def test_the_code_of_a_file_that_is_gone_goes_too(tree: ProtoTree) -> None:
    await tree.generate(tree.stale())
    order = tree.protos / "shop/v1/order.proto"
    own = tree.generated / "shop/v1/order_pb2_grpc.py"
    own.write_text("# written by hand\n")
    order.unlink()
    assert tree.remove_gone([order, tree.protos / "shop/v1/shop.proto"]) == [tree.protos / "shop/v1/shop.proto"]
    assert sorted(path.name for path in tree.generated.rglob("order*")) == ["order_pb2_grpc.py"]


async def test_comments_are_kept_beside_the_code(tree: ProtoTree) -> None:
    def comments() -> dict[str, str]:
        files = FileDescriptorSet.FromString((tree.generated / DESCRIPTORS).read_bytes()).file
        return {file.name: str(file.source_code_info) for file in files}

    await tree.generate(tree.stale())
    assert "Shop sells things." in comments()["shop/v1/shop.proto"]
    shop, order = tree.protos / "shop/v1/shop.proto", tree.protos / "shop/v1/order.proto"
    edit(order, "message Order", "// An order.\nmessage Order")
    outcome = await tree.generate([order])
    assert outcome.written == []
    assert [path.name for path in outcome.commented] == ["order_pb2.py"], "for who has loaded it"
    assert "An order." in comments()["shop/v1/order.proto"]
    assert "Shop sells things." in comments()["shop/v1/shop.proto"], "what was not compiled keeps its own"
    order.unlink()
    await tree.generate([shop])
    assert comments().keys() == {"shop/v1/shop.proto"}
    (tree.generated / DESCRIPTORS).unlink()
    assert tree.stale() == [shop]
