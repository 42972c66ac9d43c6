"""The committed generated code is what the source says."""

from google.protobuf import descriptor_pb2

from agent.proto import generate
from agent.proto.generated import hotstart_pb2, hotstart_pb2_grpc


def test_generated_code_is_current(tmp_path):
    generate.compile_proto(tmp_path, descriptor=tmp_path / "set")
    compiled = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file[0]
    committed = descriptor_pb2.FileDescriptorProto()
    hotstart_pb2.DESCRIPTOR.CopyToProto(committed)
    # The compiler fills in JSON names only in one of the two forms.
    for message in compiled.message_type:
        for field in (*message.field, *(f for n in message.nested_type for f in n.field)):
            field.ClearField("json_name")
    for message in committed.message_type:
        for field in (*message.field, *(f for n in message.nested_type for f in n.field)):
            field.ClearField("json_name")
    assert compiled == committed


def test_generated_service_has_every_method():
    wanted = {method.name for method in hotstart_pb2.DESCRIPTOR.services_by_name["Agent"].methods}
    assert wanted == {
        name for name in vars(hotstart_pb2_grpc.AgentServicer) if not name.startswith("_")
    }


def test_service_implements_every_method():
    from agent.service import Service

    wanted = {method.name for method in hotstart_pb2.DESCRIPTOR.services_by_name["Agent"].methods}
    assert wanted <= set(vars(Service))
