// The bench's peer in C++: what gRPC itself takes, without Python.
//
// `echo serve` answers three methods, whatever messages are in them: Echo (unary) and Stream (each
// message of a stream) with the bytes that came, Read with as many bytes as the request says, in
// messages of 1 MiB. It prints `ready on ADDRESS`.
//
// `echo call ADDRESS` reads one line for each measurement from standard input and prints the seconds
// that it took:
//   echo NBYTES CALLS IN_FLIGHT     unary calls
//   stream NBYTES MESSAGES          messages there and back, one after the other, on one stream
//   read NBYTES                     one value, copied into memory that was touched before

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace {

using grpc::ByteBuffer;

constexpr char kEcho[] = "/benchmarks.Peer/Echo";
constexpr char kStream[] = "/benchmarks.Peer/Stream";
constexpr char kRead[] = "/benchmarks.Peer/Read";
constexpr size_t kChunk = size_t{1} << 20;

ByteBuffer OfBytes(size_t count) {
  grpc::Slice slice(std::string(count, '\1'));
  return ByteBuffer(&slice, 1);
}

uint64_t NumberIn(const ByteBuffer& message) {
  grpc::Slice slice;
  uint64_t number = 0;
  if (message.DumpToSingleSlice(&slice).ok() && slice.size() == sizeof number) {
    std::memcpy(&number, slice.begin(), sizeof number);
  }
  return number;
}

// ---- the server ----

class EchoOnce : public grpc::ServerGenericBidiReactor {
 public:
  EchoOnce() { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "expected a message"));
    }
  }
  void OnDone() override { delete this; }

 private:
  ByteBuffer message_;
};

class EchoAll : public grpc::ServerGenericBidiReactor {
 public:
  EchoAll() { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartWrite(&message_);
    } else {
      Finish(grpc::Status::OK);
    }
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      StartRead(&message_);
    } else {
      Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }

 private:
  ByteBuffer message_;
};

// Sends from memory that was touched before, which no message copies.
class Give : public grpc::ServerGenericBidiReactor {
 public:
  Give() { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    left_ = ok ? NumberIn(message_) : 0;
    Next();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) left_ = 0;
    Next();
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (left_ == 0) {
      Finish(grpc::Status::OK);
      return;
    }
    static const std::string warm(kChunk, '\1');
    const size_t size = std::min<uint64_t>(kChunk, left_);
    grpc::Slice slice(warm.data(), size, grpc::Slice::STATIC_SLICE);
    message_ = ByteBuffer(&slice, 1);
    left_ -= size;
    StartWrite(&message_);
  }

  ByteBuffer message_;
  uint64_t left_ = 0;
};

class Unknown : public grpc::ServerGenericBidiReactor {
 public:
  Unknown() { Finish(grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "no such method")); }
  void OnDone() override { delete this; }
};

class Service : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    if (context->method() == kEcho) return new EchoOnce;
    if (context->method() == kStream) return new EchoAll;
    if (context->method() == kRead) return new Give;
    return new Unknown;
  }
};

int Serve() {
  Service service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::cerr << "no port on 127.0.0.1 to listen on\n";
    return 1;
  }
  std::cout << "ready on 127.0.0.1:" << port << std::endl;
  server->Wait();
  return 0;
}

// ---- the client ----

[[noreturn]] void Fail(const grpc::Status& status) {
  std::cerr << "the call failed: " << status.error_code() << ' ' << status.error_message() << '\n';
  std::exit(1);
}

// Unary calls, so many of them in flight until so many are done.
class Calls {
 public:
  Calls(grpc::GenericStub* stub, size_t nbytes, int calls)
      : stub_(stub), request_(OfBytes(nbytes)), left_(calls), waiting_(calls) {}

  void Run(int in_flight) {
    for (int i = 0; i < in_flight; ++i) Begin();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return waiting_ == 0; });
  }

 private:
  struct Call {
    grpc::ClientContext context;
    ByteBuffer request, response;
  };

  void Begin() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (left_ == 0) return;
      --left_;
    }
    auto* call = new Call;
    call->request = request_;
    stub_->UnaryCall(&call->context, kEcho, grpc::StubOptions(), &call->request, &call->response,
                     [this, call](grpc::Status status) {
                       delete call;
                       if (!status.ok()) Fail(status);
                       Begin();
                       std::lock_guard<std::mutex> lock(mutex_);
                       if (--waiting_ == 0) done_.notify_all();
                     });
  }

  grpc::GenericStub* stub_;
  const ByteBuffer request_;
  std::mutex mutex_;
  std::condition_variable done_;
  int left_, waiting_;
};

// One stream of a blocking client.
class Stream {
 public:
  Stream(grpc::GenericStub* stub, const char* method)
      : call_(stub->PrepareCall(&context_, method, &queue_)) {
    call_->StartCall(this);
    if (!Await()) End();
  }
  void Write(const ByteBuffer& message) {
    call_->Write(message, this);
    if (!Await()) End();
  }
  bool Read(ByteBuffer* message) {
    call_->Read(message, this);
    return Await();
  }
  void End() {
    grpc::Status status;
    call_->WritesDone(this);
    Await();
    call_->Finish(&status, this);
    Await();
    if (!status.ok()) Fail(status);
  }

 private:
  bool Await() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

void PingPong(grpc::GenericStub* stub, size_t nbytes, int messages) {
  Stream stream(stub, kStream);
  const ByteBuffer request = OfBytes(nbytes);
  ByteBuffer response;
  for (int i = 0; i < messages; ++i) {
    stream.Write(request);
    if (!stream.Read(&response)) break;
  }
  stream.End();
}

void ReadInto(grpc::GenericStub* stub, std::vector<char>* memory) {
  const uint64_t nbytes = memory->size();
  Stream stream(stub, kRead);
  grpc::Slice wanted(&nbytes, sizeof nbytes);
  stream.Write(ByteBuffer(&wanted, 1));
  ByteBuffer message;
  size_t got = 0;
  while (stream.Read(&message)) {
    std::vector<grpc::Slice> slices;
    if (!message.Dump(&slices).ok()) break;
    for (const grpc::Slice& slice : slices) {
      const size_t size = std::min<size_t>(slice.size(), nbytes - got);
      std::memcpy(memory->data() + got, slice.begin(), size);
      got += size;
    }
  }
  stream.End();
  if (got != nbytes) {
    std::cerr << "read " << got << " of " << nbytes << " bytes\n";
    std::exit(1);
  }
}

int Call(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  grpc::GenericStub stub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  std::vector<char> memory;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string what;
    size_t nbytes = 0;
    int count = 0, in_flight = 1;
    words >> what >> nbytes;
    if (what == "read" && memory.size() != nbytes) memory.assign(nbytes, 0);
    const auto started = std::chrono::steady_clock::now();
    if (what == "echo" && words >> count >> in_flight) {
      Calls(&stub, nbytes, count).Run(in_flight);
    } else if (what == "stream" && words >> count) {
      PingPong(&stub, nbytes, count);
    } else if (what == "read") {
      ReadInto(&stub, &memory);
    } else {
      std::cerr << "expected echo, stream or read with its numbers, found: " << line << '\n';
      return 2;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
    std::cout << took.count() << std::endl;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "serve") return Serve();
  if (argc == 3 && std::string(argv[1]) == "call") return Call(argv[2]);
  std::cerr << "usage: echo serve | echo call ADDRESS\n";
  return 2;
}
