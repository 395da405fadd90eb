"""Operators that a bundle's graph may contain.

The list is closed. It contains the operators of the ONNX standard whose time and memory depend on the shapes of their
inputs only, which is what the exporter writes. Control flow (`Loop`, `If`, `Scan`), functions, operators whose output
has as many elements as the data decides (`NonZero`, `Unique`), random numbers, strings, sequences and operators of
other domains are not in it.

`DynamicQuantizeLinear` is not in it, because its ranges follow each batch: the result for an image would depend on the
other images of its batch.

Some operators have inputs that determine the size of the output. Such an input must be computed from constants and from
shapes, not from the pixels of the image. So a graph needs the same time and the same memory for every batch of a
certain size, and its self-test shows how much.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BitShift Cast CastLike Ceil
    Celu Clip Cos Cosh DequantizeLinear Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu
    Pow QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan
    Tanh ThresholdedRelu Where Xor
"""
_REDUCTIONS = """
    ArgMax ArgMin CumSum Hardmax LogSoftmax ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax TopK
"""
_LAYERS = """
    AveragePool BatchNormalization Conv ConvInteger ConvTranspose Dropout Einsum Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool GridSample GroupNormalization InstanceNormalization LRN LayerNormalization LpNormalization LpPool
    MatMul MatMulInteger MaxPool MeanVarianceNormalization QLinearConv QLinearMatMul RMSNormalization
"""
_SHAPES = """
    Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements GatherND OneHot Pad Range
    Reshape Resize ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze
"""
ALLOWED = frozenset(f"{_ELEMENTWISE}{_REDUCTIONS}{_LAYERS}{_SHAPES}".split())

# Positions of the inputs that determine the size of the output.
_SIZE_INPUTS: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
}
_SHAPE_OF = {"Shape", "Size"}


def operator_problems(graph: onnx.ModelProto) -> Iterator[str]:
    """Yield what is wrong with the operators of a graph, as sentences. Nested graphs need no check: none is allowed.

    Args:
        graph: The graph. Its nodes are in the order of their execution, as ONNX requires.
    """
    if graph.functions:
        yield f"it defines the function {graph.functions[0].name[:100]!r}; functions are not allowed."
    from_image = {value.name for value in graph.graph.input}
    for node in graph.graph.node:
        name = node.op_type[:100]
        if node.domain not in {"", "ai.onnx"}:
            yield f"it uses the operator {name!r} of the domain {node.domain[:100]!r}; only standard ones are allowed."
            continue
        if node.op_type not in ALLOWED or any(item.graphs or item.HasField("g") for item in node.attribute):
            yield (
                f"it uses the operator {name!r}, which is not allowed. Allowed are operators of the ONNX standard "
                "whose time and memory depend only on the shapes of their inputs: no loops, no branches, no functions, "
                "no dynamic quantisation."
            )
            continue
        for position in _SIZE_INPUTS.get(node.op_type, ()):
            if position < len(node.input) and node.input[position] in from_image:
                yield (
                    f"the operator {name!r} computes the size of its output from the pixels of the image. Sizes must "
                    "be computed from constants and shapes."
                )
        if node.op_type not in _SHAPE_OF and not from_image.isdisjoint(node.input):
            from_image.update(node.output)
