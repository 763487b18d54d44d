"""The product of matrices that programs call (``sparserl/networks/products.py``), in C++.

The compiler writes these texts behind ``extern`` into the source of each program, where it has the declarations of operations
that are not PyTorch's own. These are whole definitions, so that a program needs no library beside PyTorch's.
"""

IN_CPP = [
    # from ATen/native/CPUBlas.h, which PyTorch exports; where oneDNN has no kernel for the processor it calls a BLAS
    """"C++" { namespace at::native::cpublas {
        void brgemm(int64_t rows, int64_t columns, int64_t inner, int64_t left_row, int64_t right_row, int64_t result_row,
                    const bool adds, const float* left, const float* right, float* result, bool is_packed);
    } }""",
    """AOTITorchError aoti_torch_cpu_product_of_members(
            AtenTensorHandle left, AtenTensorHandle right, AtenTensorHandle* result) {
        int64_t *left_size, *left_stride, *right_size, *right_stride;
        aoti_torch_get_sizes(left, &left_size);
        aoti_torch_get_strides(left, &left_stride);
        aoti_torch_get_sizes(right, &right_size);
        aoti_torch_get_strides(right, &right_stride);
        const int64_t members = left_size[0], rows = left_size[1], inner = left_size[2], columns = right_size[2];
        int32_t left_type, right_type;
        aoti_torch_get_dtype(left, &left_type);
        aoti_torch_get_dtype(right, &right_type);
        const bool is_float32 = left_type == aoti_torch_dtype_float32() && right_type == aoti_torch_dtype_float32();
        const bool is_in_rows = (inner == 1 || left_stride[2] == 1) && (columns == 1 || right_stride[2] == 1);
        if (!is_float32 || !is_in_rows) {
            return AOTI_TORCH_FAILURE;  // the kernel would read other numbers
        }
        // how far apart the rows of one row are is anything
        const int64_t left_row = rows == 1 ? inner : left_stride[1], right_row = inner == 1 ? columns : right_stride[1];
        const int64_t size[] = {members, rows, columns}, stride[] = {rows * columns, columns, 1};
        const AOTITorchError error = aoti_torch_empty_strided(
            3, size, stride, aoti_torch_dtype_float32(), aoti_torch_device_type_cpu(), 0, result);
        if (error != AOTI_TORCH_SUCCESS) {
            return error;
        }
        void *from_left, *from_right, *to;
        aoti_torch_get_data_ptr(left, &from_left);
        aoti_torch_get_data_ptr(right, &from_right);
        aoti_torch_get_data_ptr(*result, &to);
        for (int64_t member = 0; member < members; ++member) {
            at::native::cpublas::brgemm(
                rows, columns, inner, left_row, right_row, columns, false,
                static_cast<const float*>(from_left) + member * left_stride[0],
                static_cast<const float*>(from_right) + member * right_stride[0],
                static_cast<float*>(to) + member * stride[0], false);
        }
        return AOTI_TORCH_SUCCESS;
    }""",
]
